"""One experiment a file, its settings beside it."""

"""Turn plain data into something that people read."""

"""Other packages, run in environments of their own."""

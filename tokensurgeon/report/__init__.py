"""From plain data to something that people read."""

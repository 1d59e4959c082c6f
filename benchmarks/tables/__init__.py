"""Tables made from committed results."""

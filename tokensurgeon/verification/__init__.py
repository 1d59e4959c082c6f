"""The invariants of a written model."""

"""Verify the invariants of a written model."""

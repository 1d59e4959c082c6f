"""Whole operations on models: transplant, trim, extend, revert."""

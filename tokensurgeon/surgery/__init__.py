"""Run whole operations on models: transplant, trim, extend, revert."""

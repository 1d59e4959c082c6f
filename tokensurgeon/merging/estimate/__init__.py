"""Estimate what merge methods read from files: Fisher information, trained coefficients."""

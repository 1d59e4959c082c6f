"""Solve for sparse coefficients over anchors, for many targets at once."""

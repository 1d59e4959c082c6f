"""Sparse coefficients over anchors, for many targets at once."""

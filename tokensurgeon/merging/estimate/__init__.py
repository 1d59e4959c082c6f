"""Files that merge methods read: Fisher information, trained coefficients."""

"""From coefficients in the donor's space to rows of the base."""

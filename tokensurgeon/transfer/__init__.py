"""Apply coefficients from the donor's space to rows of the base."""

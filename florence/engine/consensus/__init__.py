"""TODO: one sentence about this package."""

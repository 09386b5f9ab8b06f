"""Simulated annotation errors: the truth about an image as an annotator of declared error rates would claim it."""

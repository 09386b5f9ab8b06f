"""Wording: texts as tokens, the overlap of texts in words, and the alignment of token sequences."""

"""Drawn scenes with exact truth: shapes, figures, backgrounds, composition, captions and questions."""

"""Enhancements of labels: canonical names of objects, and polygons with few vertices for every region that has none."""

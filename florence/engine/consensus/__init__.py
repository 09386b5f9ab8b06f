"""The consensus of several annotators: clusters of claims, annotator models fitted to them, and the labels voted on."""

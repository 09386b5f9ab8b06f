"""Regions and their labels as text and back: quantised locations, grammar, parsing, constrained decoding."""

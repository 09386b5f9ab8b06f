"""Filters: which claims and labels are dropped, and why.

A filter is a function of columns that returns, row by row, whether its reason applies. reasons.py lists every reason
and says where a new one goes; the filters themselves are in scores.py, regions.py, texts.py (with alt_text.py and
language.py), phrases.py and duplicates.py.
"""

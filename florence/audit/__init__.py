"""Audit a data set: which of its labels are most likely missing, swapped, misplaced or spurious.

The given labels are one annotator among others. Modules, low to high: logistic | others | alignment | names, boxes |
scores | issues; beside them reading (files → annotators), page, project and correction (what is written).
"""

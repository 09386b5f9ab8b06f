"""Annotators outside this process: the protocol, both its sides, the running program, images it fails on.

What happens to a claim whose annotator crashed: see `florence.processes.isolation`.
"""

"""Annotators outside this process: the protocol of lines, both its sides, the program at work, the image at fault.

What happens to a claim whose annotator crashed: see `florence.processes.isolation`.
"""

"""Annotators that run outside this process: the protocol of lines, the process at work, and the image at fault."""

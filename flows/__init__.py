"""Prefect flows, adapters and the command line: when and where things run, never what they do."""

import os

# Arrow chooses its allocator when it is loaded. Its own one keeps what each thread has ever held, and every shard is
# read by a new thread.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

"""Prefect flows, adapters and the command line: when and where things run, never what they do."""

import os

# Arrow's own allocator, which it chooses as it is loaded, keeps what each thread has ever held, and there is a new one to read each shard
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

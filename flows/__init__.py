"""Prefect flows, adapters to other tools, and the command line. The work itself is in `florence`."""

import os

# Arrow chooses its allocator when it is loaded. Its own one keeps what each thread has ever held, and every shard is
# read by a new thread.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

"""`python -m flows.cli` is the `florence` command."""

from flows.cli import main

main()

"""Prefect flows, adapters and the command line: when and where things run, never what they do."""

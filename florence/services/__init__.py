"""Calls to remote and paid services: their settings, pace, budget and failures, chat endpoints and their answers."""

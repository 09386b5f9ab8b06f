"""Calls to paid or remote services: retries, budgets, chat endpoints and what they answer. Knows no annotator."""

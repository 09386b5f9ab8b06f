"""The loop: which state it continues from, a round, the student models, and what it shows."""

"""How places and their labels become text and come back: rounding, grammar, and which token may follow."""

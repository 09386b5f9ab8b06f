"""Florence-2 as transformers has it: presets, vocabulary, checkpoints, and generation that cannot leave a task's
grammar.
"""

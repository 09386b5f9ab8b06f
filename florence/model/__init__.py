"""Florence-2 as transformers has it: presets, vocabulary, checkpoints, and generation that can not leave a task's grammar."""

"""Florence-2 as in transformers: presets, vocabulary, checkpoints, and generation constrained to a task's grammar."""

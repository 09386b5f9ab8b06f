"""Models at work: a model is loaded from anywhere, asked any tasks about any images, and its answers are in pixels."""

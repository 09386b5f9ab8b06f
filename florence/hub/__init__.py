"""Models of the transformers library by name: loading, devices, batches of one fixed shape."""

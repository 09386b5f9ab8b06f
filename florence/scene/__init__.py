"""What earlier annotators found in one image, put together for annotators that build on it."""

"""Where flows meet MLflow, DVC and Great Expectations, and where alone environment and secrets are read."""

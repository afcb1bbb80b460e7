"""A NumPyro model with its data as one flat density."""

"""Latent variables told apart from parameters and integrated out."""

"""Weights of draws: smoothing, khat, bounds, adaptation, Stein, Wasserstein."""

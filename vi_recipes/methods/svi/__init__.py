"""Stochastic variational inference: objectives, steps, stopping, checkpoints."""

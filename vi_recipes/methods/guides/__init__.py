"""Guides of stochastic variational inference and what is read off them."""

"""The Hessian of the KL divergence, and the structure it has."""

from __future__ import annotations

MAX_BORDER = 600
"""Largest border, in parameters of the factors, whose Hessian is recovered at every step."""


MAX_DENSE_PARAMETERS = 2_000
"""Most parameters for which a Hessian without structure is formed."""


MAX_BYTES = 6_000_000_000
"""Most memory that the covariances of crossed families may take."""

"""Points of finite density to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from vi_recipes.model.target import Target


NUM_ATTEMPTS = 20
"""Starting points that are tried before giving up."""


def anywhere(target: Target) -> np.ndarray:
    """Return a point to differentiate at, unconstrained: its density need not be finite."""
    return target.start(jax.random.key(0), value_and_grad=lambda z: (0.0, np.zeros(1)))

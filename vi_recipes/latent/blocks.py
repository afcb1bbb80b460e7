"""Members dealt out to blocks, whose E-steps take turns."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Blocks(NamedTuple):
    """Members dealt out to blocks of one size; a single block has no leading axis."""

    rows: Int[Array, "blocks size"]
    """Numbers of the members."""
    weights: Float[Array, "blocks size"]
    """1, and 0 of what fills the last places."""


def deal(num_members: int, num_blocks: int) -> Blocks:
    """Return the members of every block and their weights.

    Neighbours are dealt out to different blocks, so that data in some order make blocks that are
    alike. What fills the last places has weight 0.
    """
    size = -(-num_members // num_blocks)
    rows = np.arange(size * num_blocks).reshape(size, num_blocks).T
    weights = (rows < num_members).astype(float)
    return Blocks(jnp.asarray(np.minimum(rows, num_members - 1)), jnp.asarray(weights))

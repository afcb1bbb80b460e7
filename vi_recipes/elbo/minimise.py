"""The optimum of the ELBO: search, refinement, judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.algebra import BlockArrow, Crossed
from vi_recipes.core import Status

if TYPE_CHECKING:
    from vi_recipes.elbo.kl import KL

MAX_NODES = 64

RUNAWAY = 25.0
"""A location that has moved this far from where it began, unconverged, has no optimum."""


NODE_ERROR = 0.01
"""Length of the Newton step, in sds of the optimum, that doubling the nodes may still cause."""


DRAW_ERROR = 0.05
"""Standard error of a location, in sds of its factor, up to which fixed draws are enough."""


@dataclass
class Optimum:
    """Where the optimisation of the ELBO ended."""

    kl: KL
    eta: np.ndarray
    elbo: float
    decrement: float
    hessian: BlockArrow | Crossed | None
    trace: list[float]
    status: Status
    message: str
    advice: str = ""
    num_nodes: int = 0
    num_pairs: int = 0
    node_error: float = 0.0
    draw_error: float = 0.0
    elbo_error: float = 0.0
    standard_error: np.ndarray | None = None

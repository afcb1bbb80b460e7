"""Whether the chains can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vi_recipes.methods.nuts.running import Draws

R_HAT_LIMIT = 1.01
"""Vehtari et al. (2021), doi:10.1214/20-BA1221."""

ESS_PER_CHAIN = 100
"""Smallest bulk or tail ESS per chain; same source."""

E_BFMI_LIMIT = 0.3
"""Betancourt (2016), arXiv:1604.00695."""

DIVERGENT_SHARE = 0.001


def _extreme(pick: Callable[..., Any], values: Draws) -> float:
    """Pick from the numbers there are: R-hat is NaN for one chain, and for constants."""
    known = [v[~np.isnan(v)] for v in map(np.atleast_1d, values.values())]
    numbers = np.concatenate(known) if known else np.empty(0)
    return float(pick(numbers)) if numbers.size else float("nan")

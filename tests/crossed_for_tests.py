"""Two crossed families of effects, whatever the outcomes' law."""

from __future__ import annotations

from typing import Any

import numpyro
import numpyro.distributions as dist


def crossed_effects(row: Any, column: Any, rows: int, columns: int) -> Any:
    """Return the linear predictor of every outcome: a mean, and effects of its row and column."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    su = numpyro.sample("su", dist.HalfNormal(1.5))
    sv = numpyro.sample("sv", dist.HalfNormal(1.5))
    with numpyro.plate("rows", rows):
        u = numpyro.sample("u", dist.Normal(0.0, su))
    with numpyro.plate("columns", columns):
        v = numpyro.sample("v", dist.Normal(0.0, sv))
    return mu + u[row] + v[column]

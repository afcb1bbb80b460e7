"""Effects that are a mixture of two kinds far apart: members with two modes given theta."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Y = np.array([0.3, -1.9, 2.2, 0.8, -0.5, 1.1, 3.0, -2.4])
SHARES, KINDS, NOISE = np.array([0.4, 0.6]), np.array([-1.5, 1.5]), 1.5


def two_kinds(y: Any, spread: float) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    kinds = dist.Normal(m + jnp.asarray(KINDS), spread)
    with numpyro.plate("member", len(y)):
        law = dist.MixtureSameFamily(dist.Categorical(probs=jnp.asarray(SHARES)), kinds)
        t = numpyro.sample("t", law)
        numpyro.sample("y", dist.Normal(t, NOISE), obs=y)

"""Model files that several cases are about."""

from __future__ import annotations

import json

HEAD = """
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
"""

LINE = (
    HEAD
    + """
def line(x, y):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)
"""
)

X = [0.0, 1.0, 2.0, 3.0]
Y = [0.1, 0.9, 2.2, 2.9]
LINE_DATA = json.dumps({"x": X, "y": Y})
LINE_CSV = "x,y\n" + "".join(f"{x},{y}\n" for x, y in zip(X, Y, strict=True))
A, B = 0.07239806, 0.96828063
"""Posterior means of intercept and slope, by the normal equations with prior precision 1/100."""


def body(lines: str, arguments: str = "") -> str:
    """Return a model file whose function ``model`` has these lines."""
    indented = "".join(f"    {line}\n" for line in lines.strip().splitlines())
    return f"{HEAD}\n\ndef model({arguments}):\n{indented}"


NORMAL = body(
    """
m = numpyro.sample("m", dist.Normal(0.0, 1.0))
numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)
"""
)
"""A normal mean: posterior mean 0.5, sd 0.7071."""

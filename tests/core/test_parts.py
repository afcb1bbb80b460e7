"""NumPyro's parts, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODEL = """
import numpy as np, numpyro
def coin(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("toss", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)
    numpyro.factor("none", 0.0)
target = vr.Target(coin, y=np.array([1, 0, 1]))
print([method.fit(target).status.name for method in (vr.MAP(), vr.SVI(num_steps=20))])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import arviz as az; import vi_recipes as vr; import numpyro.distributions as dist",
        "import arviz as az; import numpyro.distributions as dist; import vi_recipes as vr",
        "import arviz as az; import vi_recipes as vr; vr.Comparison; "
        "import numpyro.distributions as dist",
        "import vi_recipes as vr; import arviz as az; import numpyro.distributions as dist",
    ],
)
def test_whatever_is_imported_first(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{MODEL}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "['OK', 'UNCONVERGED']", done.stderr

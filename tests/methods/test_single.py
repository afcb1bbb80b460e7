"""Single precision is refused where it cannot hold the data or where sites are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.methods.single import why_not_single


def level(y: Any) -> None:
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def far(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(1e8, 1.0))
    numpyro.sample("y", dist.Normal(mu - 1e8, 1.0), obs=y)


NOISE = np.random.default_rng(1).standard_normal(40)


@pytest.mark.parametrize("method", [vr.SVI(dtype="float32"), vr.NUTS(dtype="float32")])
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (1e8 + NOISE, r"'y' has numbers of 1000000\d+ that differ by 0.9"),
        (1e6 + NOISE, "single precision knows such numbers to 0.06"),
        (1e19 * NOISE, "single precision cannot compute with"),
        (1e-20 * NOISE, "whose squares single precision cannot hold"),
        (np.int64(1_700_000_000_000) + np.arange(40), "single precision cannot compute with"),
    ],
)
def test_data_that_single_precision_cannot_hold_are_refused(
    method: vr.Method, y: np.ndarray, words: str
) -> None:
    fit = method.fit(vr.Target(level, y=y))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "float64" in fit.message
    with pytest.raises(vr.FitError, match=words):
        fit.mean()


def test_a_site_that_single_precision_cannot_place_is_named() -> None:
    assert "site 'mu' has values near " in (why_not_single(vr.Target(far, y=NOISE)) or "")


@pytest.mark.parametrize("y", [NOISE, 1e3 + 10 * NOISE, np.arange(40), 1e12 * NOISE, 0 * NOISE])
def test_ordinary_data_are_not_refused(y: np.ndarray) -> None:
    assert why_not_single(vr.Target(level, y=y)) is None

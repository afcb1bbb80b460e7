"""Members whose modes are kinks: bends of lines that lie at a time of the data, effects of 0."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr

OK = (vr.Status.OK,)
ANY = (vr.Status.OK, vr.Status.UNCONVERGED)  # 159 nodes leave some 0.02 sds, which is told

TIMES = np.arange(6.0)
BENDS = np.array([1.2, 2.0, 3.1, 2.6, 3.9, 2.2, 3.0, 1.7])
LINES = (
    np.maximum(TIMES - BENDS[:, None], 0.0)
    + 0.4 * stats.norm.rvs(size=(8, 6), random_state=1)
    - 0.9 * (TIMES == 3.0)
)
Y = np.array([-1.1, 0.2, 0.4, 2.3, 0.9, -0.3, 0.6, 4.0])


def bent_lines(y: np.ndarray) -> None:
    m = numpyro.sample("m", dist.Normal(2.0, 2.0))
    with numpyro.plate("line", len(y)):
        z = numpyro.sample("z", dist.Normal(m, 0.8))
        mean = jnp.maximum(TIMES - z[:, None], 0.0)
        numpyro.sample("y", dist.Normal(mean, 0.4).to_event(1), obs=y)


def peaked_effects(y: np.ndarray) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Laplace(m, 0.7))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def of_line(y: float, z: np.ndarray) -> np.ndarray:
    mean = np.maximum(TIMES - z[..., None], 0.0)
    return stats.norm(mean, 0.4).logpdf(y).sum(-1)


def of_row(y: float, z: np.ndarray) -> np.ndarray:
    return stats.norm(z, 1.0).logpdf(y)


@pytest.mark.parametrize(
    ("model", "y", "prior", "law", "of", "statuses"),
    [
        (bent_lines, LINES, stats.norm(2, 2), lambda m: stats.norm(m, 0.8), of_line, OK),
        (peaked_effects, Y, stats.norm(0, 2), lambda m: stats.laplace(m, 0.7), of_row, ANY),
    ],
)
def test_members_whose_modes_are_kinks_are_integrated_out(
    model: Callable[..., None],
    y: np.ndarray,
    prior: object,
    law: Callable,
    of: Callable,
    statuses: object,
) -> None:
    # 12 % of the posterior lay where no mode of a member was found: its slope never came to 0
    m, z = np.linspace(-4.0, 8.0, 241), np.linspace(-12.0, 16.0, 5601)
    joint = np.array([law(m[:, None]).logpdf(z) + of(row, z) for row in y])  # rows, m, z
    by_row = logsumexp(joint, axis=2)
    log_p = prior.logpdf(m) + by_row.sum(0)
    w = np.exp(log_p - logsumexp(log_p))
    given = np.exp(joint - by_row[..., None]) @ np.stack([z, z**2], -1)  # rows, m, powers
    first, second = np.einsum("m,rmk->kr", w, given)
    means = np.append(first, w @ m)
    sds = np.sqrt(np.append(second - first**2, w @ m**2 - (w @ m) ** 2))

    fit = vr.NestedQuadrature().fit(vr.Target(model, y=y), key=1)
    assert fit.status in statuses, fit.explanation
    off = np.abs((np.append(fit.mean()["z"], fit.mean()["m"]) - means) / sds).max()
    assert off < 0.02
    # a few nodes less change it by 1/39 of that
    assert off < 2 * fit.diagnostics["largest_error"]
    assert np.abs(np.append(fit.sd()["z"], fit.sd()["m"]) / sds - 1).max() < 0.02

"""Members whose densities take many nodes: two modes, more than there is room for."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from kinds_for_tests import KINDS, NOISE, SHARES, Y, two_kinds
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes import NestedQuadrature
from vi_recipes.methods.nested.judge import more_nodes
from vi_recipes.methods.nested.records import InnerError


def answer(spread: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log p(y), and the means and sds of m and t: given m and the kinds all is normal."""
    m = np.linspace(-5.0, 5.0, 2001)[:, None, None]
    v = spread**2 + NOISE**2
    each = np.log(SHARES) + stats.norm.logpdf(Y[:, None], m + KINDS, np.sqrt(v))
    log_p = stats.norm.logpdf(m[:, 0, 0]) + logsumexp(each, axis=2).sum(1)
    w = np.exp(log_p - logsumexp(log_p))
    share = np.exp(each - logsumexp(each, axis=2, keepdims=True)) * w[:, None, None]
    centre = m + KINDS + spread**2 / v * (Y[:, None] - m - KINDS)
    t = (share * centre).sum((0, 2))
    square = (share * (centre**2 + spread**2 * NOISE**2 / v)).sum((0, 2))
    mean = w @ m[:, 0, 0]
    sds = np.sqrt([w @ m[:, 0, 0] ** 2 - mean**2, *square - t**2])
    return logsumexp(log_p) + np.log(m[1, 0, 0] - m[0, 0, 0]), np.array([mean, *t]), sds


@pytest.mark.parametrize("spread", [0.4, 0.25])
def test_members_of_two_modes_have_as_many_nodes_as_they_need(spread: float) -> None:
    fit = NestedQuadrature().fit(vr.Target(two_kinds, y=Y, spread=spread), key=1)
    log_p, mean, sd = answer(spread)
    assert fit.status is vr.Status.OK, fit.explanation
    assert np.abs((np.append(fit.mean()["m"], fit.mean()["t"]) - mean) / sd).max() < 0.02
    assert np.abs(np.append(fit.sd()["m"], fit.sd()["t"]) / sd - 1).max() < 0.02
    assert fit.log_evidence is not None
    assert abs(fit.log_evidence.value - log_p) < 4 * fit.log_evidence.se


@pytest.mark.slow
def test_a_mode_of_a_member_that_no_nodes_reach_is_told() -> None:
    # around one component all is normal, to the last bit: means were 2.7 sds off, and OK
    fit = NestedQuadrature().fit(vr.Target(two_kinds, y=Y, spread=0.1), key=1)
    assert fit.status is vr.Status.UNCONVERGED
    assert "has another mode, at " in fit.message
    assert "exact Gaussian" not in fit.message
    assert not fit.diagnostics["covered"]
    assert fit.advice == "use NUTS"


def test_where_nodes_run_out_nobody_is_sent_for_more() -> None:
    change = np.array([0.0, 0.1])
    assert "leave num_nodes at 'auto'" in more_nodes(InnerError.of(9, 15, change))
    assert more_nodes(InnerError.of(159, 155, change)) == "use NUTS"


def two_coordinates(y: Any) -> None:
    with numpyro.plate("member", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(z.sum(-1))), obs=y)


def test_more_nodes_than_there_is_room_for_are_refused() -> None:
    target = vr.Target(two_coordinates, y=np.arange(3))
    assert NestedQuadrature(num_nodes=39).applies(target) is None
    reason = NestedQuadrature(num_nodes=40).applies(target)
    assert reason == "members of 2 coordinates have at most 39 nodes a coordinate, not 40"


@pytest.mark.parametrize("num_nodes", [39, 159])
def test_more_nodes_leave_less(num_nodes: int) -> None:
    def counts(y: Any) -> None:
        with numpyro.plate("member", len(y)):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.array([0, 2, 7])
    fit = NestedQuadrature(num_nodes=num_nodes).fit(vr.Target(counts, y=y), key=0)
    exact = stats.nbinom.logpmf(y, 2, 0.5).sum()
    assert fit.log_evidence is not None
    assert abs(fit.log_evidence.value - exact) < 1e-6

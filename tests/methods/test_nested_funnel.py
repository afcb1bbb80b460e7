"""Few coupled effects under an unknown scale: their joint density has a funnel, and no maximum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes import NestedQuadrature

FIRST, SECOND = np.array([(a, b) for a in range(6) for b in range(6) if a != b]).T
WON = (np.random.default_rng(7).uniform(size=30) < 1 / (1 + np.exp((FIRST - SECOND) / 4))) * 1
SEEN = np.array([[4, 3, 2, 1, 3], [5, 6, 1, 2, 2], [6, 3, 3, 0, 2]])


def teams(y: Any, centred: bool) -> None:
    """A Bradley-Terry model: abilities meet two at a time."""
    home = numpyro.sample("home", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("team", 6):
        raw = numpyro.sample("raw", dist.Normal(0.0, spread if centred else 1.0))
    able = raw if centred else spread * raw
    with numpyro.plate("match", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=home + able[FIRST] - able[SECOND]), obs=y)


def times(y: Any, centred: bool) -> None:
    """Effects one after another, scalars in no plate."""
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    effects: list[Any] = []
    for t in range(5):
        before = 0.6 * effects[-1] if effects else 0.0
        if centred:
            effects.append(numpyro.sample(f"e{t}", dist.Normal(before, spread)))
        else:
            raw = numpyro.sample(f"e{t}", dist.Normal(0.0, 1.0))
            effects.append(before + spread * raw)
    rates = dist.Poisson(jnp.exp(m + jnp.stack(effects)))
    numpyro.sample("y", rates.expand([3, 5]).to_event(2), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "y"), [(teams, WON), (times, SEEN)])
def test_few_coupled_effects_are_integrated_out_of_a_funnel(
    model: Callable[..., None], y: np.ndarray
) -> None:
    funnel = NestedQuadrature().fit(vr.Target(model, y=y, centred=True), key=1)
    plain = NestedQuadrature().fit(vr.Target(model, y=y, centred=False), key=1)
    assert plain.status is vr.Status.OK, plain.explanation
    assert "no latent variables" in plain.message
    assert funnel.status is vr.Status.OK, funnel.explanation
    assert "weighed points" in funnel.message
    for site in ("home", "spread") if model is teams else ("m", "spread"):
        sd = float(plain.sd()[site])
        assert abs(float(funnel.mean()[site] - plain.mean()[site])) < 0.03 * sd
        assert float(funnel.sd()[site]) == pytest.approx(sd, rel=0.03)
    assert funnel.log_evidence is not None
    assert plain.log_evidence is not None
    error = np.hypot(funnel.log_evidence.se, plain.log_evidence.se)
    assert abs(funnel.log_evidence.value - plain.log_evidence.value) < 4 * error + 0.005


def test_a_funnel_that_stays_ends_in_words() -> None:
    # nodes that are asked for are those of members which are not coupled: all is theta's
    fit = NestedQuadrature(num_nodes=9).fit(vr.Target(times, y=SEEN, centred=True), key=1)
    assert fit.status in (vr.Status.DIVERGED, vr.Status.UNCONVERGED)
    assert "LinAlgError" not in fit.message


def lasso(x: Any, y: Any) -> None:
    width = numpyro.sample("width", dist.HalfNormal(1.0))
    with numpyro.plate("column", x.shape[1]):
        b = numpyro.sample("b", dist.Laplace(0.0, width))
    numpyro.sample("y", dist.Normal(x @ b, 0.5).to_event(1), obs=y)


@pytest.mark.slow
def test_a_funnel_of_kinks_is_refused_for_what_it_is() -> None:
    # "the objective, or an answer, became NaN or infinite", which is not so
    x = np.random.default_rng(2).normal(size=(20, 4))
    fit = NestedQuadrature().fit(vr.Target(lasso, x=x, y=x[:, 0]), key=1)
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "has several modes, or no maximum; and with the coupled ones integra" in fit.message
    assert "kinks in b" in fit.message
    assert fit.advice == "use NUTS"

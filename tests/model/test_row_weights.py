"""Scales and masks around what is summed or integrated out; the oracle writes rows out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

import vi_recipes as vr
from vi_recipes.core.status import Status

Y = np.array([-2.0, -0.3, 0.2, 1.9])
W = np.array([1.0, 3.0, 2.0, 1.0])
OUT = np.repeat(Y, W.astype(int))


def mixture(y: Any, w: Any) -> None:
    m = numpyro.sample("m", dist.Normal(1.0, 1.0))
    with numpyro.plate("row", len(y)), handlers.scale(scale=w):
        c = numpyro.sample("c", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)


def log_joint(m: float, y: np.ndarray) -> float:
    rows = np.log(0.3 * stats.norm.pdf(y, m) + 0.7 * stats.norm.pdf(y, -m))
    return float(stats.norm.logpdf(m, 1) + rows.sum())


@pytest.mark.slow
def test_a_weight_is_that_of_the_row_summed_over_its_states() -> None:
    target = vr.Target(mixture, y=Y, w=W)
    assert target.log_density([0.6]) == pytest.approx(log_joint(0.6, OUT), rel=1e-12)
    both = [vr.MarginalMLE().fit(t, throw=True) for t in (target, written())]
    for name in ("mean", "sd"):
        given, expected = (getattr(fit, name)()["m"] for fit in both)
        assert given == pytest.approx(expected, rel=1e-6)
    assert both[0].log_likelihood == pytest.approx(both[1].log_likelihood, rel=1e-10)
    laplace = [vr.Laplace().fit(t, throw=True) for t in (target, written())]
    assert laplace[0].sd()["m"] == pytest.approx(laplace[1].sd()["m"], rel=1e-6)


def written() -> vr.Target:
    return vr.Target(mixture, y=OUT, w=np.ones(len(OUT)))


@pytest.mark.slow
def test_em_weighs_rows_too() -> None:
    fits = [
        vr.EM(num_starts=1).fit(t, throw=True) for t in (vr.Target(mixture, y=Y, w=W), written())
    ]
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, rel=1e-9)


def test_one_weight_for_all_rows() -> None:
    target = vr.Target(mixture, y=Y, w=np.array(2.0))
    assert target.log_density([0.6]) == pytest.approx(log_joint(0.6, np.tile(Y, 2)), rel=1e-12)


@pytest.mark.slow
def test_masked_rows_are_left_out() -> None:
    keep = np.array([True, False, True, True])

    def model(y: Any, keep: Any) -> None:
        m = numpyro.sample("m", dist.Normal(1.0, 1.0))
        with numpyro.plate("row", len(y)), handlers.mask(mask=keep):
            c = numpyro.sample("c", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)

    target = vr.Target(model, y=Y, keep=keep)
    assert target.log_density([0.6]) == pytest.approx(log_joint(0.6, Y[keep]), rel=1e-12)
    fit = vr.MarginalMLE().fit(target, throw=True)
    other = vr.MarginalMLE().fit(vr.Target(mixture, y=Y[keep], w=np.ones(3)), throw=True)
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-10)


def test_missing_answers_of_a_row_are_no_weight() -> None:
    """A mask around the observed site only: the states of a row without data sum to one."""
    keep = np.array([True, False, True, True])

    def model(y: Any, keep: Any) -> None:
        m = numpyro.sample("m", dist.Normal(1.0, 1.0))
        with numpyro.plate("row", len(y)):
            c = numpyro.sample("c", dist.Bernoulli(0.3))
            law = dist.Normal(jnp.where(c == 1, m, -m), 1.0)
            numpyro.sample("y", law.mask(keep), obs=y)

    target = vr.Target(model, y=Y, keep=keep)
    assert target.log_density([0.6]) == pytest.approx(log_joint(0.6, Y[keep]), rel=1e-12)


def test_weights_within_a_member_are_those_of_its_observations() -> None:
    y = np.stack([Y, Y + 0.3])

    def model(y: Any, w: Any) -> None:
        m = numpyro.sample("m", dist.Normal(1.0, 1.0))
        with numpyro.plate("member", 2, dim=-2):
            c = numpyro.sample("c", dist.Bernoulli(0.3))
            with numpyro.plate("row", 4, dim=-1), handlers.scale(scale=w):
                numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)

    terms = [(W * stats.norm.logpdf(y, s)).sum(1) for s in (0.6, -0.6)]
    rows = np.logaddexp(np.log(0.3) + terms[0], np.log(0.7) + terms[1])
    expected = stats.norm.logpdf(0.6, 1) + rows.sum()
    target = vr.Target(model, y=y, w=W)
    assert target.log_density([0.6]) == pytest.approx(expected, rel=1e-12)


def test_weights_that_are_not_those_of_rows_are_refused() -> None:
    def inside(y: Any, w: Any) -> None:
        m = numpyro.sample("m", dist.Normal(1.0, 1.0))
        with numpyro.plate("row", len(y)):
            c = numpyro.sample("c", dist.Bernoulli(0.3))
            with handlers.scale(scale=w):
                numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)

    def outside(y: Any, w: Any) -> None:
        m = numpyro.sample("m", dist.Normal(1.0, 1.0))
        with numpyro.plate("row", len(y)):
            with handlers.scale(scale=w):
                c = numpyro.sample("c", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'y' is weighted .*'c', which is integrated out of"):
        vr.Target(inside, y=Y, w=W)
    with pytest.raises(ValueError, match=r"'c' is integrated out with weight .* 'y'"):
        vr.Target(outside, y=Y, w=W)


GROUP = np.repeat(np.arange(4), 3)
ROWS = Y[GROUP] + np.tile([0.4, -0.1, 0.3], 4)


def effects(y: Any, group: Any, w: Any) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    with numpyro.plate("group", len(w)), handlers.scale(scale=w):
        u = numpyro.sample("u", dist.Normal(m, s))
    with numpyro.plate("row", len(y)), handlers.scale(scale=w[group]):
        numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gaussian", "quadrature"])
def test_weights_of_groups_are_those_of_the_integral(rule: str) -> None:
    copies = np.repeat(np.arange(4), W.astype(int))
    y = np.concatenate([ROWS[g == GROUP] for g in copies])
    out = vr.Target(effects, y=y, group=np.repeat(np.arange(7), 3), w=np.ones(7))
    target = vr.Target(effects, y=ROWS, group=GROUP, w=W)
    method = vr.MarginalMLE(e_step=rule)  # type: ignore[arg-type]
    given, expected = (method.fit(t, throw=True) for t in (target, out))
    assert given.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-9)
    for name in ("m", "s"):
        assert given.mean()[name] == pytest.approx(expected.mean()[name], rel=1e-5)
        assert given.sd()[name] == pytest.approx(expected.sd()[name], rel=1e-4)


def test_methods_of_the_joint_density_refuse_weights_of_groups() -> None:
    target = vr.Target(effects, y=ROWS, group=GROUP, w=W)
    for method in (vr.Laplace(), vr.NUTS(), vr.MeanField(), vr.SVI()):
        fit = method.fit(target)
        assert fit.status is Status.NOT_APPLICABLE
        assert "'u' is under handlers.scale (weights from 1 to 3)" in fit.message


def test_masked_latent_elements_that_nothing_bounds_are_refused() -> None:
    def partly(y: Any, seen: Any) -> None:
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y, obs_mask=seen)

    target = vr.Target(partly, y=Y, seen=np.array([True, False, True, True]))
    fit = vr.Laplace().fit(target)
    assert fit.status is Status.NOT_APPLICABLE
    assert "'y_unobserved' is masked" in fit.message
    assert "3 of its 4" in fit.message

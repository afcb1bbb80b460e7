"""Code that fits share, and targets that differ in their data only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.core.shared_code import SharedCode, shared_code
from vi_recipes.core.timing import Timing


def shifted(by: jax.Array, power: int = 2):
    """Return a function that closes over an array."""

    def function(x: jax.Array) -> dict[str, jax.Array]:
        return {"sum": jnp.sum((x - by) ** power), "each": x - by}

    return function


def test_one_executable_serves_functions_that_close_over_other_arrays() -> None:
    x, code = jnp.arange(3.0), SharedCode()
    with code.used():
        for by in (jnp.ones(3), 5 * jnp.ones(3)):
            found = Timing().compile(shifted(by), x)(x)
            np.testing.assert_allclose(found["each"], x - by)
            np.testing.assert_allclose(found["sum"], ((x - by) ** 2).sum())
        assert len(code) == 1
        # what the code says otherwise is part of it: a power, constants inside, a shape
        cubes = Timing().compile(shifted(by, 3), x)(x)["sum"]
        np.testing.assert_allclose(cubes, -(125 + 64 + 27))
        known = len(code)
        for c in (np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])):
            inner = jax.jit(lambda x, c=c: jax.lax.cond(x[0] > 1, lambda: x, lambda: x * c))
            np.testing.assert_allclose(
                Timing().compile(lambda x, f=inner: f(x) + 1, x)(x), x * c + 1
            )
        long = jnp.arange(4.0)
        assert Timing().compile(lambda x: x.sum(), long)(long) == 6.0
    assert shared_code() is None
    assert len(code) > known > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [vr.NUTS(num_chains=1, num_warmup=50, num_samples=50), vr.LinearResponse()],
    ids=["nuts", "lrvb"],
)
def test_fits_that_share_code_say_what_fits_on_their_own_say(method: vr.Method) -> None:
    base = target("linear_regression")
    others = [base.with_data(y=base.data["y"][::-1]), base.with_data(y=base.data["y"] + 1)]
    code = SharedCode()
    with code.used():
        first = method.fit(base, key=1)
        known = len(code)
        shared = [method.fit(other, key=1) for other in others]
    assert len(code) == known > 0
    for fit, other in zip(shared, others, strict=True):
        alone = method.fit(vr.Target(base.model, **other.data), key=1)
        for name, mean in alone.mean().items():
            np.testing.assert_allclose(fit.mean()[name], mean, rtol=1e-12)
            assert not np.allclose(first.mean()[name], mean, rtol=1e-6)
            np.testing.assert_allclose(fit.sd()[name], alone.sd()[name], rtol=1e-12)
        assert fit.provenance.data_fingerprint == alone.provenance.data_fingerprint


def test_code_of_guides_is_the_same_in_any_unit() -> None:
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 20.0), obs=y)

    base, code = vr.Target(model, y=500.0 + np.arange(20.0)), SharedCode()
    with code.used():
        vr.SVI(num_steps=100).fit(base, key=0)
        known, other = len(code), base.with_data(y=base.data["y"] * 3)
        vr.SVI(num_steps=100).fit(other, key=0)
    assert other.units != base.units
    assert len(code) == known > 0


# -- targets with other data -----------------------------------------------------------------------


def test_a_target_with_other_data_is_a_target_of_those_data() -> None:
    base = target("linear_regression")
    y = base.data["y"] * 2
    other, fresh = base.with_data(y=y), vr.Target(base.model, **{**base.data, "y": y})
    z = np.array([0.3, -0.2])
    assert other.log_density(z) == pytest.approx(fresh.log_density(z), rel=1e-12)
    assert other.log_density(z) != pytest.approx(base.log_density(z), rel=1e-3)
    assert other.fingerprint == fresh.fingerprint != base.fingerprint
    np.testing.assert_array_equal(other.data["X"], base.data["X"])
    start = other.start(jax.random.key(0))
    np.testing.assert_array_equal(start, fresh.start(jax.random.key(0)))
    assert other.compiled_once is not base.compiled_once


def test_data_of_another_form_need_a_target_of_their_own() -> None:
    base = target("linear_regression")
    with pytest.raises(ValueError, match=r"argument: got 'z'.*X, y.*new Target"):
        base.with_data(z=np.zeros(3))
    with pytest.raises(ValueError, match=r"'y': got float64 of shape \(3,\), expected.*\(20,\)"):
        base.with_data(y=np.zeros(3))
    with pytest.raises(ValueError, match="'y': got int64"):
        base.with_data(y=np.zeros(20, int))
    with pytest.raises(ValueError, match="'y' has 20 NaN"):
        base.with_data(y=np.full(20, np.nan))

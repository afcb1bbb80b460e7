"""The objective compiled: draws come in chunks of one shape, and chunks add up to the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.algebra import derivatives
from vi_recipes.core.timing import Timing
from vi_recipes.elbo import curvature
from vi_recipes.elbo.curvature import CurvedKL
from vi_recipes.elbo.factors import make_factors
from vi_recipes.elbo.minimise import Limits, find_optimum


def counts(y: jax.Array) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    k = numpyro.sample("k", dist.Gamma(3.0, 1.0))
    p = jax.nn.sigmoid(a)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.BetaBinomial(p * k, (1 - p) * k, 9), obs=y)


def made(families: dict[str, str]) -> CurvedKL:
    target = vr.Target(counts, y=np.array([2, 3, 7, 1, 4]))
    timing = Timing()
    with jax.enable_x64(True):
        kl = CurvedKL(
            target, make_factors(target, families), {"y": "draws"}, jax.random.key(0), timing
        )
        kl.use_nodes(8), kl.use_pairs(16)
        kl.find_structure(jax.random.key(0))
    assert kl.expectation.drawn == ["y"]
    return kl


@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False], ids=["forward", "reverse"])
@pytest.mark.parametrize("families", [{}, {"k": "gamma"}], ids=["normal", "weighted"])
def test_chunks_add_up_to_the_objective(
    families: dict[str, str], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:  # nor are products taken ahead, by the same program
        monkeypatch.setattr(derivatives, "FORWARD", 0)
        monkeypatch.setattr(curvature, "AHEAD", 0)
    kl = made(families)
    assert small == (kl._ahead is not None)
    flat = kl.factors.start(np.array([0.1, 0.4]), 0.3).ravel()
    v = np.array([0.3, -1.0, 0.7, 0.2])
    compiled = set(kl.target.compiled_once._made)

    def value(f: jax.Array, noise: jax.Array) -> jax.Array:
        return kl.value(f, kl.held._replace(noise=noise))

    def of_one(x: jax.Array, draw: jax.Array) -> tuple[jax.Array, ...]:
        """What one pair alone makes of the objective, and what the pair itself says."""

        def gradient(f: jax.Array) -> tuple[jax.Array, jax.Array]:
            whole, slope = jax.value_and_grad(value)(f, draw[None])
            return slope, whole

        slope, bent, whole = jax.jvp(gradient, (x,), (jnp.asarray(v),), has_aux=True)
        pair = jax.value_and_grad(kl.expectation.pair)
        return whole, slope, bent, *pair(x.reshape(-1, 2), draw, kl.held.arrays)

    with jax.enable_x64(True):
        x, alone = jnp.asarray(flat), jax.jit(of_one)
    for num_pairs in (16, 40, 5):  # whole chunks, and such as are filled up
        with jax.enable_x64(True):
            kl.use_pairs(num_pairs)
            each = zip(*(alone(x, draw) for draw in kl.held.noise), strict=True)
            wholes, slopes, bents, pairs, pair_slopes = map(np.stack, each)
            found, gradient = kl.evaluate(flat)
            product = kl.products(flat, np.vstack([kl._basis[:-1], v]))[-1]
            values, gradients = kl.pair_gradients(flat)
            at_once = jax.jit(value)(x, kl.held.noise)
        assert len(pairs) == num_pairs
        np.testing.assert_allclose(found, at_once, rtol=1e-12)
        np.testing.assert_allclose(found, wholes.mean(), rtol=1e-12)
        np.testing.assert_allclose(gradient, slopes.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(product, bents.mean(axis=0), rtol=1e-10)
        assert values.shape == (num_pairs,)
        np.testing.assert_allclose(values, pairs, rtol=1e-12)
        expected = pair_slopes.reshape(num_pairs, -1)
        np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-12)
    assert (
        set(kl.target.compiled_once._made) == compiled
    )  # one program, however many draws there are


def ratings(who: jax.Array, what: jax.Array, y: jax.Array) -> None:
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    with numpyro.plate("person", 40):
        a = numpyro.sample("a", dist.Normal(0.0, sd))
    with numpyro.plate("thing", 35):
        b = numpyro.sample("b", dist.Normal(0.0, sd))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a[who] + b[what], 0.5), obs=y)


@pytest.mark.slow
def test_crossed_families_take_their_steps_with_draws_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    who, what = np.repeat(np.arange(40), 5), rng.integers(35, size=200)
    y = rng.standard_normal(40)[who] + rng.standard_normal(35)[what] + rng.standard_normal(200) / 2
    limits = Limits(num_nodes=8, num_pairs=40, max_pairs=40, max_steps=50, tolerance=1e-6)
    found = []
    for most in (2_000, 12):
        monkeypatch.setattr(curvature, "MAX_BORDER", most)
        monkeypatch.setattr(curvature, "MAX_DENSE_PARAMETERS", most)
        target = vr.Target(ratings, who=who, what=what, y=y)
        with jax.enable_x64(True):
            factors = make_factors(target, {})
            kl = CurvedKL(target, factors, {"y": "draws"}, jax.random.key(0), Timing())
            optimum = find_optimum(kl, jax.random.key(0), limits, lambda *_: None)
        assert (kl.families is None) == (most > 12)
        assert kl.expectation.drawn == ["y"]
        found.append(optimum.eta)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_what_is_kept_of_a_row_is_what_a_product_needs() -> None:
    """Three second derivatives and the weight, squares of slopes, and whose the row is, twice."""
    model = vr.load_model("criteo")
    assert model.simulate is not None
    rows = 4_001
    target = vr.Target(model, **model.simulate(num_rows=rows, num_groups=300))
    with jax.enable_x64(True):
        kl = vr.MeanField().objective(target, jax.random.key(0), Timing(), CurvedKL, {})
        kl.use_nodes(8)
        kl.use_pairs(16)
        eta = jnp.asarray(kl.factors.start(target.anywhere(), 0.1).ravel())
        kept = jax.tree.leaves(jax.eval_shape(kl._linearised, eta, kl.held))
    of_rows = sum(leaf.size * leaf.dtype.itemsize for leaf in kept if rows in leaf.shape)
    assert of_rows <= rows * (4 * 8 + 5 * 8 + 2 * 4)

"""Label switching: known permutations are recovered, and everything moves with its label."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior, PointPosterior
from vi_recipes.posterior.labels import PermutedPosterior, match, relabel_draws


@pytest.mark.parametrize("k", [2, 6, 9])  # enumeration up to 6 components, assignment beyond
def test_known_permutations_of_draws_are_undone(k: int) -> None:
    rng = np.random.default_rng(k)
    shape = (2, 200)
    # components 5 sds apart in mu; "weight" has its labels last, and "other" has none
    mu = 5.0 * rng.permutation(k)[:, None] + np.zeros((k, 2))
    pivot = {"mu": mu, "weight": np.arange(1.0 * k)}
    truth = {
        "mu": pivot["mu"] + 0.5 * rng.standard_normal((*shape, k, 2)),
        "weight": pivot["weight"] + 0.1 * rng.standard_normal((*shape, k)),
        "pair": rng.standard_normal((*shape, 3, k)),
        "other": rng.standard_normal(shape),
    }
    group = vr.Exchangeable(sites={"mu": 0, "weight": 0, "pair": 1})
    shuffled = {name: value.copy() for name, value in truth.items()}
    moved = 0
    for c, d in np.ndindex(shape):
        order = rng.permutation(k) if d % 2 else np.arange(k)
        moved += bool((order != np.arange(k)).any())
        for name, axis in group.sites.items():
            shuffled[name][c, d] = np.take(truth[name][c, d], order, axis=axis)
    pivot["pair"] = np.zeros((3, k))
    found, share = relabel_draws(shuffled, [group], pivot)
    for name, value in truth.items():
        np.testing.assert_array_equal(found[name], value)
    assert share == pytest.approx(moved / 400)


def test_groups_are_relabelled_apart() -> None:
    values = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 20.0, 30.0])}
    reference = {"a": np.array([2.1, 0.9]), "b": np.array([29.0, 11.0, 19.0])}
    groups = (vr.Exchangeable(sites={"a": 0}), vr.Exchangeable(sites={"b": 0}))
    orders = match(values, reference, groups)
    assert [o.tolist() for o in orders] == [[1, 0], [2, 0, 1]]


def test_sites_without_numbers_do_not_vote() -> None:
    group = vr.Exchangeable(sites={"mu": 0, "Sigma": 0})
    values = {"mu": np.array([1.0, 5.0]), "Sigma": np.array([np.nan, np.nan])}
    reference = {"mu": np.array([5.0, 1.0]), "Sigma": np.array([2.0, 3.0])}
    assert match(values, reference, (group,))[0].tolist() == [1, 0]
    nothing = {"mu": np.full(2, np.nan), "Sigma": np.full(2, np.nan)}
    assert match(nothing, reference, (group,))[0].tolist() == [0, 1]


def test_units_do_not_decide() -> None:
    # "tiny" tells the components apart and "noise", a million times larger, does not
    values = {"tiny": np.array([1e-6, 2e-6]), "noise": np.array([3.0, 3.1])}
    reference = {"tiny": np.array([2e-6, 1e-6]), "noise": np.array([3.05, 3.05])}
    group = vr.Exchangeable(sites={"tiny": 0, "noise": 0})
    assert match(values, reference, (group,))[0].tolist() == [1, 0]


SHAPES = {"mu": (3, 2), "rest": (), "pi": (3,)}
ORDER = np.array([2, 0, 1])
GROUP = vr.Exchangeable(sites={"mu": 0, "pi": 0})


def permuted(base: object) -> PermutedPosterior:
    return PermutedPosterior(base, (GROUP,), (ORDER,))  # type: ignore[arg-type]


def test_everything_moves_with_its_label() -> None:
    rng = np.random.default_rng(0)
    samples = {name: rng.standard_normal((2, 50, *shape)) for name, shape in SHAPES.items()}
    base, found = DrawsPosterior(samples), permuted(DrawsPosterior(samples))
    # what it should be: the posterior of draws that were permuted one by one
    by_hand = {"mu": samples["mu"][:, :, ORDER], "rest": samples["rest"],
               "pi": samples["pi"][:, :, ORDER]}  # fmt: skip
    expected = DrawsPosterior(by_hand)
    for name in SHAPES:
        for what in ("mean", "sd", "mcse_mean", "mcse_sd"):
            mine, right = (getattr(q, what)()[name] for q in (found, expected))
            np.testing.assert_allclose(mine, right, rtol=1e-12)
        np.testing.assert_array_equal(found.samples[name], by_hand[name])  # type: ignore[index]
    for sites in (["mu", "rest", "pi"], ["pi", "mu"], ["rest"], ["pi"]):
        np.testing.assert_allclose(found.cov(sites), expected.cov(sites), rtol=1e-12)
    key = jax.random.key(0)
    np.testing.assert_array_equal(found.draws(9, key)["mu"], base.draws(9, key)["mu"][:, ORDER])


def test_a_posterior_without_draws_can_be_permuted() -> None:
    point = {name: np.arange(np.prod(shape, dtype=float)).reshape(shape)
             for name, shape in SHAPES.items()}  # fmt: skip
    found = permuted(PointPosterior(point))
    np.testing.assert_array_equal(found.mean()["pi"], [2, 0, 1])
    np.testing.assert_array_equal(found.mean()["mu"], [[4, 5], [0, 1], [2, 3]])
    assert found.samples is None
    assert permuted(MomentsPosterior(point, point)).samples is None


def mixture_by(sites: dict[str, int]) -> vr.Target:
    """Two components with weights and means, exchangeable by axes of the given sites."""

    def model(y: jax.Array) -> None:
        weight = numpyro.sample("weight", dist.Dirichlet(np.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        numpyro.sample("pair", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        parts = dist.Normal(mu, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), parts), obs=y)

    group = vr.Exchangeable(sites=sites)
    wrapped = vr.Model(function=model, name="mixture", exchangeable=(group,))
    return vr.Target(wrapped, y=np.array([-3.2, -2.1, -2.6, 1.4, 2.2, 3.1, 2.5]))


def test_axes_may_be_counted_from_the_last() -> None:
    sampler = vr.NUTS(num_warmup=100, num_samples=50, num_chains=2)
    from_first, from_last = (
        sampler.fit(mixture_by(axes))
        for axes in ({"weight": 0, "mu": 0, "pair": 1}, {"weight": -1, "mu": -1, "pair": -1})
    )
    for site in ("weight", "mu", "pair"):
        np.testing.assert_array_equal(from_last[site], from_first[site])


def test_components_are_as_many_in_every_site() -> None:
    with pytest.raises(ValueError, match=r"unequal lengths \(mu 2, pair 3\)"):
        mixture_by({"mu": 0, "pair": 0})

"""Parts of a target, each of some members with their rows, against the whole one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.algebra import BlockArrow
from vi_recipes.core import Timing
from vi_recipes.elbo import CurvedKL, KLInParts, make_factors
from vi_recipes.model import Division
from vi_recipes.model.dividing import _is_same, _local, find_division
from vi_recipes.model.division import axis_of_members

NUMBER = 6
CODES = (np.array([0, 2, 3, 5]), np.array([1, 4]))


def model(y: Any, x: Any, group: Any, weight: Any, num_groups: int) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.Gamma(3.0, 3.0))
    with numpyro.plate("groups", num_groups):
        u = numpyro.sample("u", dist.Normal(slope[0], scale))
        v = numpyro.sample("v", dist.Normal(0.0, weight))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=slope[1] * x + u[group] + v[group]), obs=y)


def data() -> dict[str, Any]:
    rng = np.random.default_rng(6)
    group = np.repeat(np.arange(NUMBER), [3, 6, 2, 4, 1, 3])
    return {
        "y": rng.integers(0, 2, group.size),
        "x": rng.standard_normal(group.size),
        "group": group,
        "weight": rng.uniform(0.5, 2.0, NUMBER),
        "num_groups": NUMBER,
    }


def divisions(
    made: vr.Model | Any = model, given: dict[str, Any] | None = None
) -> list[Division[vr.Target]]:
    """Return the division as each of two hosts has it."""
    given = data() if given is None else given
    whole = vr.Target(made, **given)
    found = []
    for index, codes in enumerate(CODES):
        rows = np.isin(given["group"], codes)
        own = {
            k: v[rows] if isinstance(v, np.ndarray) and v.shape == rows.shape else v
            for k, v in given.items()
        }
        local = _local(vr.Target(made, **own), "groups", codes, ["group"])
        found.append(Division(whole, local, "groups", CODES, index, whole.size))
        local.part_of = found[-1]
    return found


def test_parts_have_what_is_their_members(monkeypatch: pytest.MonkeyPatch) -> None:
    both = divisions()
    whole = both[0].whole
    assert [d.local.dim for d in both] == [3 + 2 * 4, 3 + 2 * 2]
    assert both[0].shared == ("slope", "scale")
    assert both[0].structure(both[1].local).local.shape == (2, 2)
    z = np.random.default_rng(1).standard_normal(whole.dim)
    for division, codes in zip(both, CODES, strict=True):
        own = division.local.unravel(jnp.asarray(division.own(z)))
        for name, value in whole.unravel(jnp.asarray(z)).items():
            right = value[codes] if name in ("u", "v") else value
            np.testing.assert_array_equal(own[name], right)
        np.testing.assert_array_equal(division.own(z)[division.border], z[:3])
        np.testing.assert_array_equal(division.local.data["weight"], data()["weight"][codes])
    # what either gathers is what the other gives too
    owns = [division.own(z) for division in both]
    local = [
        {name: own[division.local.slices[name]] for name in ("u", "v")}
        for division, own in zip(both, owns, strict=True)
    ]
    names = iter(("u", "v"))
    monkeypatch.setattr(
        "vi_recipes.model.division.arrays_by_hosts",
        lambda _: (lambda name: [part[name] for part in local])(next(names)),
    )
    np.testing.assert_array_equal(both[0].gathered(owns[0]), z)
    assert axis_of_members((5, 3, 2), (5, 1, 2)) == 1
    assert axis_of_members((5,), (5,)) is None


@pytest.mark.slow
def test_what_parts_have_of_the_elbo_adds_up_to_it() -> None:
    """Value, gradient and Hessian: the prior and the entropy of what all have count once."""
    both = divisions()
    whole = both[0].whole
    key, nodes = jax.random.key(0), 8
    with jax.enable_x64(True):
        made = []
        for kind, target in ((CurvedKL, whole), *((KLInParts, d.local) for d in both)):
            kl = kind(target, make_factors(target, {"scale": "gamma"}), {}, key, Timing())
            kl.use_nodes(nodes)
            kl.use_pairs(0)
            kl.find_structure(key)
            made.append(kl)
        one, *parts = made
        z = 0.3 * np.random.default_rng(2).standard_normal(whole.dim)
        eta = one.factors.start(z, 0.4)
        value, gradient = one.evaluate(eta.ravel())
        hessian = one.hessian(eta.ravel())
        assert isinstance(hessian, BlockArrow)
        # of one process a sum over hosts is what it gives itself
        total, corner = 0.0, np.zeros_like(hessian.corner)
        border = np.zeros(6)
        for division, kl in zip(both, parts, strict=True):
            own = np.stack([division.own(eta[:, k]) for k in range(2)], axis=1)
            its_value, slope = kl.evaluate(own.ravel())
            bend = kl.hessian(own.ravel())
            assert isinstance(bend, BlockArrow)
            total, corner = total + its_value, corner + bend.corner
            border += slope[:6]
            members = CODES[division.index]
            np.testing.assert_allclose(bend.edge, hessian.edge[:, members], atol=1e-12)
            np.testing.assert_allclose(bend.blocks, hessian.blocks[members], atol=1e-12)
            right = division.own(gradient[0::2])[3:], division.own(gradient[1::2])[3:]
            np.testing.assert_allclose(slope[6::2], right[0], atol=1e-12)
            np.testing.assert_allclose(slope[7::2], right[1], atol=1e-12)
    np.testing.assert_allclose(total, value, rtol=1e-12)
    np.testing.assert_allclose(border, gradient[:6], atol=1e-12)
    np.testing.assert_allclose(corner, hessian.corner, atol=1e-12)
    assert one.describe() == parts[0].describe() == parts[1].describe()


def test_models_that_do_not_run_at_another_number_of_members_are_told() -> None:
    def fixed(y: Any, x: Any, group: Any, weight: Any, num_groups: int) -> None:
        with numpyro.plate("groups", NUMBER):
            u = numpyro.sample("u", dist.Normal(0.0, weight))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=u[group] + x), obs=y)

    with pytest.raises(ValueError, match="The shapes of the data are"):
        divisions(fixed)

    def as_before(y: Any, x: Any, group: Any, weight: Any, num_groups: int) -> None:
        with numpyro.plate("groups", NUMBER):
            u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=u[group] + x), obs=y)

    with pytest.raises(ValueError, match=r"site 'u' is one of them, and has shape \(6,\)"):
        divisions(as_before)

    def outside(y: Any, x: Any, group: Any, weight: Any, num_groups: int) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([num_groups]).to_event(1))
        with numpyro.plate("groups", num_groups):
            u = numpyro.sample("u", dist.Normal(w, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=u[group] + x), obs=y)

    with pytest.raises(ValueError, match="site 'w' is outside their plate and has as many"):
        divisions(outside)
    target = vr.Target(model, **data())
    division, why = find_division(target, target, lambda part: part)
    assert division is None  # one host has them all
    assert "does not run with the members of one host alone (it has all)" in why
    other = {**data(), "group": data()["group"] - 1, "y": data()["y"] * 1.0}
    assert (
        "no argument has the member of each row"
        in find_division(vr.Target(model, **other), target, lambda part: part)[1]
    )


def test_a_density_that_is_no_sum_over_members_is_seen() -> None:
    def coupled(y: Any, x: Any, group: Any, weight: Any, num_groups: int) -> None:
        with numpyro.plate("groups", num_groups):
            u = numpyro.sample("u", dist.Normal(0.0, weight))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=u[group] + x * u.mean()), obs=y)

    def sums(made: Any) -> list[bool]:
        both, given = divisions(made), []
        for division in both:  # what each gives, and then what both give together
            object.__setattr__(division, "add", lambda n: given.append(n) or n)
            _is_same(division)
        totals = [given[k] + given[k + 2] for k in range(2)]
        found = []
        for division in both:
            rest = iter(totals)
            object.__setattr__(division, "add", lambda _, rest=rest: next(rest))
            found.append(_is_same(division))
        return found

    assert sums(model) == [True, True]
    assert sums(coupled) == [False, False]

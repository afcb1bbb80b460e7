"""What depends on latent sites by steps, and whether the log density jumps for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import branch
from numpyro.contrib.control_flow import scan

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.model import Jump, find_jumps

TABLE = np.array([0.0, 1.0, 5.0, 2.0, 7.0])
EDGES = np.arange(5.0)


def normal(location: Callable[[jax.Array], Any], centre: float = 0.0) -> vr.Target:
    """Return a target whose one observation has its mean from a latent site by ``location``."""

    def model(y: float) -> None:
        c = numpyro.sample("c", dist.Normal(centre, 3.0))
        numpyro.sample("y", dist.Normal(location(c), 1.0), obs=y)

    return vr.Target(model, y=4.0)


def jumps(target: vr.Target, spread: float = 3.0) -> list[Jump]:
    """Return the jumps on eight lines through points around the start."""
    noise = np.random.default_rng(0).standard_normal((8, 2, target.dim))
    return find_jumps(target, target.anywhere() + spread * noise, Timing())


JUMPING: dict[str, Callable[[jax.Array], Any]] = {
    "rounded": jnp.round,
    "sign": jnp.sign,
    "threshold": lambda c: jnp.where(c > 1, 3.0, 0.0),
    "index": lambda c: jnp.asarray(TABLE)[jnp.clip(c, 0, 4).astype(int)],
    "argmax": lambda c: jnp.asarray(TABLE)[jnp.argmax(jnp.stack([c, 1 - c, 0.5 * c]))],
    "searchsorted": lambda c: jnp.asarray(TABLE)[jnp.searchsorted(EDGES, c) % 5],
    "order": lambda c: jnp.asarray(TABLE)[jnp.argsort(jnp.stack([c, jnp.ones(())]))[0]],
    "many small steps": lambda c: jnp.floor(1000 * c) / 1000,
    "a slope and steps": lambda c: c + jnp.floor(c),
    "remainder": lambda c: c % 2.0,
    "branch": lambda c: jax.lax.cond(c > 0, lambda: 2.0, lambda: 0.0),
    "how often a loop runs": lambda c: jax.lax.while_loop(lambda a: a < c, lambda a: a + 1, 0.0),
    "what a loop counts": lambda c: jax.lax.fori_loop(0, 5, lambda i, a: a + (c > i), 0.0),
}


@pytest.mark.parametrize("name", JUMPING)
def test_a_jump_is_found(name: str) -> None:
    target = normal(JUMPING[name])
    assert target.flows.stepped == {"y": ("c",)}
    [jump] = jumps(target)
    assert (jump.site, jump.latents) == ("y", ("c",))


def test_the_size_of_a_jump_is_that_of_the_log_density() -> None:
    [jump] = jumps(normal(JUMPING["threshold"]))
    assert jump.size == pytest.approx((4.0**2 - 1.0**2) / 2)


def test_a_jump_far_from_the_origin_is_found() -> None:
    assert jumps(normal(lambda c: jnp.where(c > 1e4 + 1, 3.0, 0.0), centre=1e4))


CONTINUOUS: dict[str, Callable[[jax.Array], Any]] = {
    "leaky hinge": lambda c: jnp.where(c > 0, c, 0.1 * c),
    "product with a threshold": lambda c: (c > 0) * c,
    "guarded root": lambda c: jnp.where(c > 0, jnp.sqrt(jnp.where(c > 0, c, 1.0)), 0.0),
    "interpolation": lambda c: jnp.interp(c, EDGES, TABLE),
    "circle": lambda c: jnp.cos(2 * jnp.pi * (c % 1.0)),
    "equal branches": lambda c: jnp.where(c > 0, 2.0, 2.0),
    "Huber": lambda c: jnp.where(jnp.abs(c) < 1, c**2 / 2, jnp.abs(c) - 0.5),
    "branch": lambda c: jax.lax.cond(c > 0, lambda: c, lambda: -c),
    "an edge of the support": lambda c: jnp.where(c > 1, jnp.where(c > 3, 3.0, c), -jnp.inf),
    "steep": lambda c: jnp.where(jnp.isnan(c), 0.0, jax.nn.sigmoid(1e5 * c)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_is_continuous_does_not_jump(name: str) -> None:
    assert jumps(normal(CONTINUOUS[name])) == []


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.relu,
        jnp.abs,
        lambda c: jnp.clip(c, -1, 2),
        lambda c: jnp.maximum(0, 1 - c),
        jax.nn.softplus,
        lambda c: jax.nn.logsumexp(jnp.stack([c, jnp.ones(())])),
        lambda c: jnp.median(jnp.stack([c, jnp.zeros(()), jnp.ones(())])),
        lambda c: jnp.where(c == c, c, jnp.inf),
    ],
)
def test_what_has_slopes_everywhere_is_not_looked_at(function: Callable[[jax.Array], Any]) -> None:
    target = normal(function)
    assert target.flows.stepped == {}
    assert find_jumps(target, np.full((1, 2, 5), np.nan), Timing()) == []  # would raise


def test_flows_are_told_apart_by_site() -> None:
    def model(y: np.ndarray) -> None:
        tau = numpyro.sample("tau", dist.Normal(2.0, 1.0))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(jnp.where(tau > 2, 1.0, 0.0), scale))
            numpyro.deterministic("count", jnp.floor(z).astype(int))
            numpyro.deterministic("twice", 2 * z)
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        numpyro.deterministic("constant", len(y))

    target = vr.Target(model, y=np.array([0.3, -0.4]))
    flows = target.flows
    assert flows.stepped == {"z": ("tau",)}
    assert flows.densities["z"].whole.latents == {"tau", "scale", "z"}
    assert flows.densities["y"].whole.latents == {"z"}
    assert flows.stepped_values == ("count",)
    assert flows.values["constant"].latents == frozenset()
    assert (target.coordinate_of["count"] == -1).all()
    assert (target.coordinate_of["twice"] == [2, 3]).all()
    [jump] = jumps(target, 1.0)
    assert (jump.site, jump.latents) == ("z", ("tau",))


def test_branches_and_scans_of_numpyro_are_seen() -> None:
    assert [(j.site, j.latents) for j in jumps(vr.Target(branch))] == [("x", ("c",))]

    def walk(y: np.ndarray) -> None:
        tau = numpyro.sample("tau", dist.Normal(2.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

        def step(carried: tuple[Any, Any], row: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
            number, value = carried
            numpyro.sample("y", dist.Normal(jnp.where(number > tau, 3.0, value), sigma), obs=row)
            return (number + 1, value), None

        scan(step, (jnp.zeros(()), jnp.zeros(())), y)

    target = vr.Target(walk, y=np.array([0.1, -0.2, 3.1]))
    assert target.flows.stepped == {"y": ("tau",)}
    assert target.flows.densities["y"].whole.latents == {"tau", "sigma"}


class Stairs(dist.Normal):  # type: ignore[misc]
    """A normal law that rounds its location within its own density."""

    def log_prob(self, value: Any) -> Any:
        """Return the log density."""
        return dist.Normal(jnp.floor(self.loc), self.scale).log_prob(value)


def test_a_law_that_is_not_of_numpyro_is_looked_into() -> None:
    def model(y: float) -> None:
        c = numpyro.sample("c", dist.Normal(0.0, 3.0))
        numpyro.sample("y", Stairs(c, 1.0), obs=y)

    assert [j.site for j in jumps(vr.Target(model, y=4.0))] == ["y"]


@pytest.mark.parametrize("value", [3, True, np.int8(2), np.array([1, 2])])
def test_deterministic_sites_are_numbers_of_any_kind(value: Any) -> None:
    def model() -> None:
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.deterministic("d", value)

    constrained = vr.Target(model).constrain(np.zeros((4, 1)))["d"]
    assert constrained.dtype == np.float64
    assert (constrained == np.asarray(value, float)).all()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (lambda z: z + 1j, "site 'd' holds complex numbers.*z.real, z.imag"),
        (lambda z: [z, z], "site 'd' holds a list; expected one array of numbers"),
        (lambda z: {"a": z}, "site 'd' holds a dict; expected one array of numbers"),
        (lambda z: "z", "site 'd' holds a str; expected one array of numbers"),
        (lambda z: jax.random.key(0), r"site 'd' holds an array of type key<fry>"),
    ],
)
def test_deterministic_sites_of_anything_else_are_refused(
    value: Callable[[jax.Array], Any], match: str
) -> None:
    def model() -> None:
        numpyro.deterministic("d", value(numpyro.sample("z", dist.Normal(0.0, 1.0))))

    with pytest.raises(ValueError, match=match):
        vr.Target(model)


# -- where a density ends --------------------------------------------------------------------------


def ending(y: np.ndarray, kind: str) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.HalfNormal(5.0))
    laws = {
        "bound": dist.Uniform(a, 9.0),
        "two bounds": dist.Uniform(a, a + b),
        "within": dist.TruncatedNormal(0.0, b, low=a).expand([len(y)]).to_event(1),
        "none": dist.Gamma(jnp.exp(a), b),
    }
    if kind in laws:
        numpyro.sample("y", laws[kind], obs=y)
    elif kind == "factor":
        numpyro.factor("y", jnp.where(y < b, jnp.log(b) - a**2, -jnp.inf).sum())
    else:  # a value that is no density
        numpyro.factor("y", -jnp.square(jnp.where(a > 0, a, 0.0) - b))


@pytest.mark.parametrize(
    ("kind", "latents"),
    [
        ("bound", ("a",)),
        ("two bounds", ("a", "b")),
        ("within", ("a",)),
        ("factor", ("b",)),
        ("none", ()),
        ("kink", ()),
    ],
)
def test_where_a_density_may_end_is_read_off_the_model(kind: str, latents: tuple[str, ...]) -> None:
    target = vr.Target(ending, y=np.array([2.0, 3.0]), kind=kind)
    assert target.flows.ending == ({"y": latents} if latents else {})

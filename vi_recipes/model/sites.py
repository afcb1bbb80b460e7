"""Sites of a traced model: what each is called, how it is shaped, whether it can be fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from vi_recipes.core import ModelError

SiteKind = Literal["latent", "deterministic", "observed", "discrete"]

Sites = dict[str, np.ndarray]
"""Site name -> array on the constrained scale."""


@dataclass(frozen=True)
class Site:
    """One named site of a traced model.

    Parameters
    ----------
    name, kind
        As in the model; ``kind`` is latent, deterministic, observed, or discrete: a discrete
        latent variable, which is summed out.
    shape
        Shape on the constrained scale, batch dimensions first.
    unconstrained_shape
        Shape on the unconstrained scale; the constrained one for sites that are not latent.
    plates
        Plate name, size and axis of ``shape`` for every plate the site is in.
    dims
        Names of the dimensions of ``shape``, as ArviZ uses them.
    support
        Name of the support's constraint; empty for sites that are not latent.
    bounded
        Whether the support has an edge, which the unconstrained scale puts at infinity.
    components
        Those of its plates that count no members, but the components of an observed mixture, or
        the values of a discrete latent variable.
    """

    name: str
    kind: SiteKind
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    plates: tuple[tuple[str, int, int], ...]
    dims: tuple[str, ...]
    support: str = ""
    bounded: bool = False
    components: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of scalars on the constrained scale."""
        return int(np.prod(self.shape, dtype=int))


def read_trace(trace: Mapping[str, Any]) -> dict[str, Site]:
    """Return the sites of an abstract trace, checking that each can be fitted."""
    sites: dict[str, Site] = {}
    for name, site in trace.items():
        kind = site["type"]
        if kind == "param":
            raise ModelError(
                f"site '{name}' is a numpyro.param: a parameter without a prior has no posterior "
                "to compare. Use numpyro.sample with a prior, or with "
                "dist.ImproperUniform for a flat one"
            )
        if kind == "plate":
            size, subsample = site["args"]
            if subsample is not None and subsample < size:
                raise ModelError(
                    f"plate '{name}' subsamples {subsample} of {size}: the target would be random. "
                    "Drop subsample_size here"
                )
        if kind == "deterministic":
            _check_deterministic(name, site["value"])
            shape, stack = jnp.shape(site["value"]), site["cond_indep_stack"]
            event_dim = _event_dim(shape, stack)
            sites[name] = _make_site(name, "deterministic", shape, stack, event_dim)
        if kind != "sample":
            continue
        if site["is_observed"]:
            if not isinstance(site["fn"], dist.Unit):
                _check_observed(name, site)
                shape, stack = jnp.shape(site["value"]), site["cond_indep_stack"]
                sites[name] = _make_site(name, "observed", shape, stack, site["fn"].event_dim)
            continue
        sites[name] = _read_latent(name, site)
    components = _component_plates(trace, sites)
    return {
        name: replace(s, components=tuple(n for n, _, _ in s.plates if n in components))
        for name, s in sites.items()
    }


class ScanWatch(Messenger):  # type: ignore[misc]
    """Notes whether the model it wraps calls NumPyro's ``scan``."""

    found = False

    def process_message(self, msg: dict[str, Any]) -> None:
        """Look at one message."""
        self.found = self.found or msg["type"] == "control_flow"


class WithoutEmpty(Messenger):  # type: ignore[misc]
    """Hides latent sites of no elements, as coefficients of no covariates: nothing can be fitted.

    The model has their one value, and nobody else knows of them.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        """Give a site its value."""
        if msg["type"] == "sample" and not msg["is_observed"] and 0 in msg["fn"].shape():
            msg["value"] = jnp.zeros(msg["fn"].shape())
            msg["stop"] = True


def observed_names(trace: Mapping[str, Any]) -> list[str]:
    """Return the names of the observed sample sites of a trace, factors among them."""
    return [n for n, site in trace.items() if site["type"] == "sample" and site["is_observed"]]


def flat_names(trace: Mapping[str, Any]) -> frozenset[str]:
    """Return the latent sites of a trace whose priors are ``dist.ImproperUniform``: no medians."""
    wrappers = dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution
    found = set()
    for name, site in trace.items():
        if site["type"] == "sample" and not site["is_observed"]:
            fn = site["fn"]
            while isinstance(fn, wrappers):
                fn = fn.base_dist
            if isinstance(fn, dist.ImproperUniform):
                found.add(name)
    return frozenset(found)


def plate_depth(trace: Mapping[str, Any]) -> int:
    """Return how many dimensions, counted from the right, the plates of a trace take."""
    stacks = [site["cond_indep_stack"] for site in trace.values() if site["type"] == "sample"]
    return max((-frame.dim for stack in stacks for frame in stack), default=0)


def _read_latent(name: str, site: Mapping[str, Any]) -> Site:
    fn, value = site["fn"], site["value"]
    if isinstance(fn, dist.Delta):
        raise ModelError(
            f"site '{name}' is a latent point mass (dist.Delta); use numpyro.deterministic"
        )
    if fn.support.is_discrete:
        if not fn.has_enumerate_support:
            raise ModelError(
                f"site '{name}' is a discrete latent variable of shape {jnp.shape(value)} that "
                f"cannot be enumerated ({type(fn).__name__} has no finite support). Bound it, or "
                "sum or integrate it out in the model"
            )
        stack = site["cond_indep_stack"]
        return replace(
            _make_site(name, "discrete", jnp.shape(value), stack), support=type(fn).__name__
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ModelError(f"site '{name}' has dtype {jnp.result_type(value)}; expected floating")
    shape = jnp.shape(value)
    support = fn.support
    base = support
    while isinstance(base, dist.constraints.independent):
        base = base.base_constraint
    edgeless = (dist.constraints.real, dist.constraints.ordered_vector)
    made = _make_site(name, "latent", shape, site["cond_indep_stack"], fn.event_dim)
    return replace(
        made,
        unconstrained_shape=tuple(biject_to(support).inverse_shape(shape)),
        support=str(support).lstrip("_"),
        bounded=not isinstance(base, tuple(type(c) for c in edgeless)),
    )


def _check_deterministic(name: str, value: Any) -> None:
    """Raise unless a deterministic site holds real numbers; booleans count as 0 and 1."""
    single = isinstance(value, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
    if not single or not _is_numeric(jnp.result_type(value)):
        raise ModelError(
            f"deterministic site '{name}' holds {_kind_of(value)}; expected one array of numbers "
            "or booleans. Record each part as a site of its own"
        )
    if jnp.iscomplexobj(value):
        raise ModelError(
            f"deterministic site '{name}' holds complex numbers, which have no quantiles and no "
            "one sd. Record their real and imaginary parts (z.real, z.imag), or jnp.abs(z) and "
            "jnp.angle(z), as sites of their own"
        )


def _is_numeric(value_type: Any) -> bool:
    return any(jnp.issubdtype(value_type, kind) for kind in (jnp.number, jnp.bool_))


def _kind_of(value: Any) -> str:
    """Say what a value is that is no array of numbers."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"an array of type {value.dtype}"
    return f"a {type(value).__name__}"


def _check_observed(name: str, site: Mapping[str, Any]) -> None:
    observed, expected = jnp.shape(site["value"]), tuple(site["fn"].shape())
    try:
        joint = jnp.broadcast_shapes(observed, expected)
    except ValueError:
        joint = None
    if joint != observed:
        raise ModelError(
            f"observed site '{name}': the data have shape {observed}, but the model expects "
            f"{expected}; check that the lengths of the arguments agree"
        )


def _component_plates(trace: Mapping[str, Any], sites: Mapping[str, Site]) -> set[str]:
    """Return the plates as large as a mixture that have no data and no discrete variable."""
    rows = {
        name
        for site in sites.values()
        if site.kind in ("observed", "discrete")
        for name, _, _ in site.plates
    }
    numbers = {
        _num_components(trace[name]["fn"])
        for name, site in sites.items()
        if site.kind in ("observed", "discrete")
    }
    return {
        name
        for site in sites.values()
        for name, size, _ in site.plates
        if name not in rows and size in numbers
    }


def _num_components(fn: dist.Distribution) -> int:
    """Return the number of a mixture's components, or of a discrete law's values; 0 for others."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if isinstance(fn, dist.MixtureSameFamily | dist.MixtureGeneral):
        return int(fn.mixture_size)
    if isinstance(fn, dist.CategoricalProbs):
        return int(jnp.shape(fn.probs)[-1])
    if isinstance(fn, dist.CategoricalLogits):
        return int(jnp.shape(fn.logits)[-1])
    return 0


def _event_dim(shape: tuple[int, ...], stack: Sequence[Any]) -> int:
    """Return how many of a deterministic site's last axes are no plate's: the fewest that fit.

    All of them where it does not vary along its plates.
    """
    plates = {frame.dim: frame.size for frame in stack if frame.dim is not None}
    for event_dim in range(len(shape)):
        batch = shape[: len(shape) - event_dim]
        sizes = {dim: (batch[dim], size) for dim, size in plates.items() if -dim <= len(batch)}
        if any(own == size for own, size in sizes.values()) and all(
            own in (1, size) for own, size in sizes.values()
        ):
            return event_dim
    return len(shape)


def _make_site(
    name: str,
    kind: SiteKind,
    shape: tuple[int, ...],
    stack: Sequence[Any],
    event_dim: int = 0,
) -> Site:
    batch = len(shape) - event_dim
    plates = tuple(
        (frame.name, int(frame.size), batch + frame.dim)
        for frame in stack
        if frame.dim is not None
        and batch + frame.dim >= 0
        # along a larger plate a site of size 1 does not vary
        and (shape[batch + frame.dim] > 1 or frame.size == 1)
    )
    by_axis = {axis: plate for plate, _, axis in plates}
    dims = tuple(by_axis.get(axis, f"{name}_dim_{axis}") for axis in range(len(shape)))
    return Site(name, kind, tuple(shape), tuple(shape), plates, dims)

"""A target taken apart into parameters theta and latent variables z, member by member.

EM and the marginal likelihood need log p(y_t, z_t | theta) for every member t of a plate. It comes
from one trace of the NumPyro model: the log densities of its sites, element by element, each added
to the member whose latent variables it depends on. Which member that is,
:mod:`vi_recipes.latent.members` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from vi_recipes.model import Arrays, Target, unmasked, weights_of, with_finite_logs

Elements = dict[str, jax.Array]
"""Site -> its log density, element by element, scales and masks applied."""


class LogJoint(NamedTuple):
    """The terms of log p(y, z, theta), told apart."""

    members: Float[Array, " members"]
    """log p(y_t, z_t | theta); latent variables on their unconstrained scale."""
    shared: Float[Array, ""]
    """The log-likelihood of what no latent variable touches."""
    prior: Float[Array, ""]
    """log p(theta), a density over the parameters as the model names them."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Parameters theta and latent variables z of a target, and who belongs to whom.

    Parameters
    ----------
    target
        The model conditioned on data.
    parameters, latents
        Names of the sites.
    kind
        Whether z is continuous, discrete, or absent.
    border
        Places of theta in the target's flat vector, shape (G,).
    local
        Places of z in it, shape (members, d); empty unless z is continuous.
    states
        Combined states of a member's discrete variables, shape (K, d); empty unless discrete.
    plate
        Name of the members' plate, or plates; empty where there is one member.
    index
        Site -> member that each element of its log density belongs to; -1 for none.
    chains
        Chains that the members are the times of, time running before the chain; 0 where members are
        independent given theta. Discrete states only.
    broadcast
        Whether one state for all members may stand in an array of size one, which the model's own
        indexing then broadcasts (parameters[z] is gathered once instead of once a row).
    weights
        Of every member's marginal, where scales and masks are those of rows; ``None`` where all are
        1. What :meth:`log_joint` says of a member is then that of one row, without its weight.
    """

    target: Target
    parameters: tuple[str, ...]
    latents: tuple[str, ...]
    kind: Literal["none", "continuous", "discrete"]
    border: Int[np.ndarray, " G"]
    local: Int[np.ndarray, "members d"]
    states: Int[np.ndarray, "states discrete"]
    num_members: int
    plate: str = ""
    index: dict[str, np.ndarray] = field(default_factory=dict)
    chains: int = 0
    broadcast: bool = False
    weights: Float[np.ndarray, " rows"] | None = None

    def weighted(self, by_member: Float[Array, " members"]) -> Float[Array, " members"]:
        """Return the terms of the members times the weights of their rows."""
        return by_member if self.weights is None else jnp.asarray(self.weights) * by_member

    @property
    def width(self) -> int:
        """Number of latent scalars of each member, d."""
        return int((self.local if self.kind == "continuous" else self.states).shape[1])

    @property
    def joined(self) -> Split:
        """The same with one member, which has all continuous latent variables."""
        index = {name: np.minimum(place, 0) for name, place in self.index.items()}
        return replace(self, local=self.local.reshape(1, -1), num_members=1, plate="", index=index)

    def flat(self, theta: Float[Array, " G"], z: Array) -> Float[Array, " dim"]:
        """Return the target's flat vector of theta and continuous z, shape (members, d)."""
        if self.kind != "continuous":
            return theta
        order = np.argsort(np.concatenate([self.border, self.local.ravel()]), kind="stable")
        return jnp.concatenate([theta, z.ravel()])[order]

    def sites(self, theta: Float[Array, " G"], z: Array) -> dict[str, Array]:
        """Return the unconstrained values of the target's sites; see :meth:`flat`.

        Each is made of theta or of z alone, so that no derivative in z goes through what depends on
        theta, as a covariance may.
        """
        if self.kind != "continuous":
            return self.target.unravel(theta)
        values = {}
        flat = z.ravel()
        for site in self.target.latents:
            in_theta, places = self._places[site.name]
            if places is None:
                return self.target.unravel(self.flat(theta, z))
            source = theta if in_theta else flat
            values[site.name] = source[places].reshape(site.unconstrained_shape)
        return values

    @cached_property
    def _places(self) -> dict[str, tuple[bool, slice | np.ndarray | None]]:
        """Whether each site is theta's, and where it is there or in z; ``None`` if it is split."""
        found: dict[str, tuple[bool, slice | np.ndarray | None]] = {}
        places = np.full(self.target.dim, -1)
        places[self.border] = np.arange(self.border.size)
        of_theta = places >= 0
        places[self.local.ravel()] = np.arange(self.local.size)
        for site in self.target.latents:
            own = self.target.slices[site.name]
            at, theirs = places[own], of_theta[own]
            if theirs.any() != theirs.all():
                found[site.name] = False, None
                continue
            steps = np.unique(np.diff(at))
            if at.size and (at.size == 1 or (steps.size == 1 and steps[0] > 0)):
                step = int(steps[0]) if steps.size else 1
                found[site.name] = bool(theirs.all()), slice(int(at[0]), int(at[-1]) + 1, step)
            else:
                found[site.name] = bool(theirs.all()), at
        return found

    def log_joint(self, theta: Float[Array, " G"], z: Array, arrays: Arrays) -> LogJoint:
        """Return the log joint density by member; pure, to be transformed and compiled.

        Parameters
        ----------
        theta
            Unconstrained parameters.
        z
            Unconstrained latent variables, shape (members, d); for discrete ones the number of the
            combined state that all members are in, a scalar.
        arrays
            The data, from :meth:`Target.arrays`.
        """
        return self.gather(self.elements_traced_once(theta, z, arrays))

    @cached_property
    def elements_traced_once(self) -> Callable[..., Elements]:
        """The elements of :meth:`log_joint`, for the same arguments; pure."""

        # the model is run once: derivatives are taken of what that has left
        def traced(theta: jax.Array, z: jax.Array, arrays: Arrays) -> Elements:
            if self.kind == "discrete":
                table = jnp.asarray(self.states)[z]
                z = jnp.broadcast_to(table, (1 if self.broadcast else self.num_members, self.width))
            return self.elements(theta, z, arrays)

        return jax.jit(traced)

    def gather(self, elements: Elements) -> LogJoint:
        """Return the sums of the elements by member."""
        members = jnp.zeros(self.num_members)
        shared = prior = jnp.zeros(())
        for name, value in elements.items():
            value = self._of_one_row(name, value)
            if name in self.parameters:
                prior = prior + value.sum()
                continue
            place = self.index.get(name)
            if place is None or (place < 0).all():
                shared = shared + value.sum()
                continue
            value = jnp.broadcast_to(value, place.shape)
            value = value.ravel()
            axis = _member_axis(place.ravel(), self.num_members)
            if axis == "last":
                members = members + value.reshape(-1, self.num_members).sum(0)
                continue
            if axis == "first":
                members = members + value.reshape(self.num_members, -1).sum(1)
                continue
            place = place.ravel()
            touched = place >= 0
            shared = shared + jnp.where(touched, 0.0, value).sum()
            members = members + jax.ops.segment_sum(
                jnp.where(touched, value, 0.0),
                np.where(touched, place, 0),
                self.num_members,
            )
        return LogJoint(members, shared, prior)

    def _of_one_row(self, name: str, value: jax.Array) -> jax.Array:
        """Return the elements of a site without the weights of their rows."""
        place = self.index.get(name)
        if self.weights is None or place is None or name in self.latents:
            return value  # latent sites' elements have none
        w = np.where(place >= 0, self.weights[np.maximum(place, 0)], 1.0)
        value = jnp.broadcast_to(value, place.shape)
        return jnp.where(w > 0, value / np.where(w > 0, w, 1.0), 0.0)

    def elements(
        self,
        theta: Float[Array, " G"],
        z: Array,
        arrays: Arrays,
        *,
        without: Sequence[str] = (),
    ) -> Elements:
        """Return the log densities of all sites, element by element, by one trace of the model.

        ``z`` has shape (members, d); of discrete variables it holds their values, and may have one
        row for all members. The latent sites' Jacobians are in their elements, the parameters' not.
        Sites named in ``without`` are left out.
        """
        target = self.target
        elements: Elements = {}
        with jax.numpy_rank_promotion("allow"):
            trace, flat, jacobians = self._trace(theta, z, arrays)
            for name, site in trace.items():
                if site["type"] != "sample" or name in without:
                    continue
                own = self.weights is not None and name in self.latents
                value = (unmasked(site["fn"])[0] if own else site["fn"]).log_prob(site["value"])
                if site["scale"] is not None and not own:
                    value = site["scale"] * value
                if target.has_scan and name in self.latents and name in flat:
                    transform = biject_to(site["fn"].support)
                    jacobians[name] = transform.log_abs_det_jacobian(flat[name], site["value"])
                if name in jacobians:
                    value = value + jacobians[name]
                elements[name] = jnp.asarray(value)
        return elements

    def log_jacobian(self, theta: Float[Array, " G"], z: Array, arrays: Arrays) -> Float[Array, ""]:
        """Return log |d parameters / d theta|, which :meth:`log_joint` has not; pure.

        With it log p(y, theta) is a density over the unconstrained scale.
        """
        with jax.numpy_rank_promotion("allow"):
            trace, flat, _ = self._trace(theta, z, arrays)
            total = jnp.zeros(())
            for name in self.parameters:
                transform = biject_to(trace[name]["fn"].support)
                value = transform.log_abs_det_jacobian(flat[name], trace[name]["value"])
                total = total + jnp.sum(value)
        return total

    def normal_law(
        self, theta: Float[Array, " G"], z: Array, arrays: Arrays
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]] | None:
        """Return mean and covariance of the latent site as the model names them; pure.

        ``None`` where it is not one multivariate normal vector, whole and unweighted.
        """
        if len(self.latents) != 1 or self.target.has_scan or self.kind != "continuous":
            return None
        with jax.numpy_rank_promotion("allow"):
            site = self._trace(theta, z, arrays)[0][self.latents[0]]
            law = site["fn"]
            plain = type(law) is dist.MultivariateNormal and site["scale"] is None
            if not plain or law.batch_shape or law.event_shape != (self.width,):
                return None
            return jnp.broadcast_to(law.loc, law.event_shape), law.covariance_matrix

    def site_weights(
        self, theta: Float[Array, " G"], z: Array, arrays: Arrays
    ) -> dict[str, jax.Array]:
        """Return the weight of every element of the sites' log densities, by scales and masks."""
        with jax.numpy_rank_promotion("allow"):
            return weights_of(self._trace(theta, z, arrays)[0])

    def _trace(
        self, theta: Float[Array, " G"], z: Array, arrays: Arrays
    ) -> tuple[dict[str, Any], dict[str, jax.Array], dict[str, jax.Array]]:
        """Return a trace of the model, the unconstrained sites, and Jacobians of latent ones."""
        target = self.target
        given: dict[str, jax.Array] = {}
        if self.kind == "discrete":
            given = self._states_by_site(z)
        flat = self.sites(theta, z)
        function = with_finite_logs(target.complete_model.function)
        model = handlers.seed(function, jax.random.key(0))
        jacobians: dict[str, jax.Array] = {}

        def value_of(site: dict[str, Any]) -> jax.Array | None:
            name = site["name"]
            if site["type"] != "sample" or site.get("is_observed") or name not in flat:
                return given.get(name)
            transform = biject_to(site["fn"].support)
            value = transform(flat[name])
            if name in self.latents:
                jacobians[name] = transform.log_abs_det_jacobian(flat[name], value)
            return value

        if target.has_scan:  # the sites of a scan are substituted whole, by value
            given |= {
                n: v for n, v in target.constrain_sites_fn(flat, arrays).items()
                if n in flat
            }  # fmt: skip
            model = handlers.substitute(model, data=given)
        else:
            model = handlers.substitute(model, substitute_fn=value_of)
        trace = dict(handlers.trace(model).get_trace(**target.keywords(arrays)))
        return trace, flat, jacobians

    def _states_by_site(self, z: Int[Array, "rows d"]) -> dict[str, jax.Array]:
        """Return the values of the discrete sites whose members' values are the rows of ``z``."""
        given = {}
        for k, name in enumerate(self.latents):
            shape = self.target.sites[name].shape
            shape = shape if z.shape[0] == self.num_members else (1,) * len(shape)
            given[name] = z[:, k].reshape(shape)
        return given


def _member_axis(place: Int[np.ndarray, " elements"], num_members: int) -> str:
    """Say whether the member is the first or the last axis of elements; empty for neither.

    Sums along an axis are quicker than those by segment.
    """
    if place.size % num_members:
        return ""
    each = np.arange(num_members)
    if (place.reshape(-1, num_members) == each).all():
        return "last"
    return "first" if (place.reshape(num_members, -1) == each[:, None]).all() else ""


def parameter_densities(target: Target, z: Float[Array, " dim"], arrays: Arrays) -> Elements:
    """Return the log density of every site at ``z``, summed, over the sites as they are named."""
    elements = without_latents(target).elements(z, jnp.zeros((0, 0)), arrays)
    return {name: value.sum() for name, value in elements.items()}


def latent_moments(
    target: Target,
    names: Sequence[str],
    mean: Float[np.ndarray, " dim"],
    sd: Float[np.ndarray, " dim"],
) -> dict[str, np.ndarray]:
    """Return means and sds of q(z) by site, for :attr:`vi_recipes.Fit.latents`.

    ``mean`` and ``sd`` are flat vectors of the target; all are on the unconstrained scale.
    """
    moments = {}
    for name in names:
        place, shape = target.slices[name], target.sites[name].unconstrained_shape
        moments[f"{name}_mean"] = np.asarray(mean[place]).reshape(shape)
        moments[f"{name}_sd"] = np.asarray(sd[place]).reshape(shape)
    return moments


def without_latents(target: Target) -> Split:
    """Return the split that takes every continuous site for a parameter."""
    return Split(
        target=target,
        parameters=tuple(s.name for s in target.latents),
        latents=(),
        kind="none",
        border=np.arange(target.dim),
        local=np.zeros((0, 0), int),
        states=np.zeros((0, 0), int),
        num_members=0,
    )

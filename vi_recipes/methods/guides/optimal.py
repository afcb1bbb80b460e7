"""Local variables at their own optimum given the global ones: structured stochastic VI.

Members of a plate are independent given the global variables theta, and so is their guide:

    q(u_t | theta) = Normal(m_t, s_t),   the normal nearest to p(u_t | theta, y)

on the unconstrained scale. There are no parameters: at every draw of theta the normals are found by
a fixed-point iteration of Newton steps, whose expectations are taken by Gauss-Hermite quadrature,

    1 / s_t^2 <- -E[l_t''(u_t)],    m_t <- m_t + s_t^2 E[l_t'(u_t)],

l_t being the log density of member t and its rows. As they are optima, the gradient in theta needs
no derivative of theirs. The expectation over u_t takes the place of the draw in the objective, so
that all the noise left is that of theta's draw and of which members a minibatch has.

References
----------
Hoffman, M. D., Blei, D. M., Wang, C. and Paisley, J. (2013). Stochastic variational inference.
JMLR 14.
Hoffman, M. D. and Blei, D. M. (2015). Structured stochastic variational inference. AISTATS 18.
Opper, M. and Archambeau, C. (2009). The variational Gaussian approximation revisited. Neural
Computation 21(3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import log_density

from vi_recipes.methods.guides.coordinates import Coordinates
from vi_recipes.methods.guides.scaling import ScaleUp, active_scale
from vi_recipes.methods.guides.sites import block_sites
from vi_recipes.methods.guides.with_others import DrawnWithOthers
from vi_recipes.model import Target

NUM_NODES = 8
"""Of the quadrature, one coordinate a member."""

MAX_ITERATIONS = 60
"""Newton steps of a member, at most."""

MAX_MOVE = 4.0
"""Sds that a member moves in a Newton step, at most: far off, the curvature is another."""

MAX_WIDENING = 10.0
"""By how much a precision falls in a Newton step, at most."""

SMALL = {"float64": 1e-5, "float32": 1e-3}
"""Length of the last Newton step, in sds: what is left is a good deal less."""

SETTLED = 0.01
"""Length of a further Newton step, in sds, beyond which a member has not reached its optimum."""

Flat = Float[Array, " local"]
"""One coordinate a member, of all sites of the block."""

FlatLogDensity = Callable[[Flat], Array]
"""The log density of a model at some values of the block's coordinates, all others fixed."""


Shapes = Mapping[str, tuple[int, ...]]
"""Site -> its shape on the unconstrained scale."""


class MemberNormals(NamedTuple):
    """Normals of the members, one coordinate each, and how far a further step would move them.

    Parameters
    ----------
    loc, sd
        Unconstrained.
    step
        Length of a further Newton step, in sds; relative for the precision.
    """

    loc: Flat
    sd: Flat
    step: Flat


def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of a standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    return x, w / w.sum()


def slope_and_curvature(density: FlatLogDensity, loc: Flat, sd: Flat) -> tuple[Flat, Flat]:
    """Return the expectations of the first and of minus the second derivatives, by member."""
    x, w = quadrature()

    def at(node: jax.Array) -> tuple[jax.Array, jax.Array]:
        # members do not meet, so that the sum of a row of the Hessian is its diagonal
        ones = jnp.ones_like(loc)
        return jax.jvp(jax.grad(density), (loc + sd * node,), (ones,))

    slopes, curvatures = jax.vmap(at)(jnp.asarray(x, loc.dtype))
    weights = jnp.asarray(w, loc.dtype)
    return weights @ slopes, -(weights @ curvatures)


def find_members(density: FlatLogDensity, start: Flat) -> MemberNormals:
    """Return the normals nearest to the members' laws, in Kullback and Leibler's sense.

    Parameters
    ----------
    density
        The log density, whose Hessian is diagonal.
    start
        Where locations begin.
    """
    tolerance = SMALL[start.dtype.name]

    def step(carry: tuple[Flat, Flat, Flat, jax.Array]) -> tuple[Flat, Flat, Flat, jax.Array]:
        loc, precision, _, number = carry
        slope, curvature = slope_and_curvature(density, loc, precision**-0.5)
        after = jnp.maximum(curvature, precision / MAX_WIDENING)
        root = jnp.sqrt(after)
        move = jnp.clip(slope / root, -MAX_MOVE, MAX_MOVE)
        size = jnp.maximum(jnp.abs(move), jnp.abs(after / precision - 1))
        return loc + move / root, after, size, number + 1

    def goes_on(carry: tuple[Flat, Flat, Flat, jax.Array]) -> jax.Array:
        return (carry[3] < MAX_ITERATIONS) & ~(carry[2].max() <= tolerance)

    ones = jnp.ones_like(start)
    begin = start, ones, jnp.full_like(start, jnp.inf), jnp.int32(0)
    loc, precision, size, _ = jax.lax.while_loop(goes_on, step, begin)
    return MemberNormals(loc, precision**-0.5, size)


def _flatten(values: Mapping[str, Any]) -> Flat:
    return jnp.concatenate([jnp.ravel(value) for value in values.values()])


def _unflatten(flat: Flat, shapes: Shapes) -> dict[str, Any]:
    ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in shapes.values()])
    parts = jnp.split(flat, ends[:-1])
    return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


class AutoOptimalNormal(DrawnWithOthers):
    """Normals of the members of a plate, each at its optimum given the other sites.

    Parameters
    ----------
    model
        The model with all but the block's own sites hidden.
    whole
        The model.
    """

    def __init__(
        self, model: Callable[..., Any], whole: Callable[..., Any], **options: Any
    ) -> None:
        self.whole = whole
        super().__init__(model, **options)

    def __call__(self, others: Mapping[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw the block's sites given ``others``, constrained."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        shapes = self._shapes()
        members = self.find(jax.lax.stop_gradient(dict(others)), shapes, args, kwargs)
        loc, sd = _unflatten(members.loc, shapes), _unflatten(members.sd, shapes)
        drawn = {}
        for name in block_sites(self):
            site = self.prototype_trace[name]
            transform = biject_to(site["fn"].support)
            law = dist.Normal(loc[name], sd[name]).to_event(site["fn"].event_dim)
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = numpyro.sample(name, dist.TransformedDistribution(law, transform))
        self._average(drawn, others, members, args, kwargs)
        return drawn

    def _average(
        self,
        drawn: Mapping[str, Any],
        others: Mapping[str, Any],
        members: MemberNormals,
        args: Any,
        kwargs: Any,
    ) -> None:
        """Have the objective take the expectation over the members where it has taken a draw."""
        density = self.density(others, self._shapes(), args, kwargs)
        x, w = (jnp.asarray(v, members.loc.dtype) for v in quadrature())
        expected = w @ jax.vmap(lambda node: density(members.loc + members.sd * node))(x)
        flat = _flatten({name: self._to(name).inv(value) for name, value in drawn.items()})
        eps = (flat - members.loc) / members.sd
        # the log density of the draw under the normals, less its expectation
        own = (0.5 - 0.5 * eps**2).sum()
        by = active_scale().factor * (density(flat) - expected - own)
        numpyro.factor(f"_{self.prefix}_expected", by)

    def _to(self, name: str) -> Any:
        """Return the transform of a site to its support."""
        return biject_to(self.prototype_trace[name]["fn"].support)

    def _shapes(self) -> Shapes:
        """Return the shapes of the sites on the unconstrained scale."""
        values = {name: self.prototype_trace[name]["value"] for name in block_sites(self)}
        return {n: tuple(self._to(n).inverse_shape(jnp.shape(v))) for n, v in values.items()}

    # -- the members -------------------------------------------------------------------------------

    def density(
        self, others: Mapping[str, Any], shapes: Shapes, args: Any, kwargs: Any
    ) -> FlatLogDensity:
        """Return the log density at coordinates of the block, those of minibatches not scaled up.

        Of the whole model, Jacobians of the block included.
        """
        scale = active_scale()
        seeded = handlers.seed(self.whole, jax.random.key(0))

        def value(flat: Flat) -> jax.Array:
            values, jacobian = dict(others), jnp.zeros((), flat.dtype)
            for name, z in _unflatten(flat, shapes).items():
                transform = self._to(name)
                values[name] = transform(z)
                jacobian += transform.log_abs_det_jacobian(z, values[name]).sum()
            with handlers.block(), ScaleUp(1.0, scale.plates):
                return log_density(seeded, args, kwargs, values)[0] + jacobian

        return value

    def find(
        self, others: Mapping[str, Any], shapes: Shapes, args: Any, kwargs: Any
    ) -> MemberNormals:
        """Return the normals given ``others``, constrained."""
        return find_members(
            self.density(others, shapes, args, kwargs), self._start(others, shapes, args, kwargs)
        )

    def _start(self, others: Mapping[str, Any], shapes: Shapes, args: Any, kwargs: Any) -> Flat:
        """Return the means of the members' priors given ``others``, unconstrained, or zeros."""
        model = handlers.substitute(handlers.seed(self.whole, jax.random.key(0)), data=dict(others))
        with handlers.block():
            trace = handlers.trace(model).get_trace(*args, **kwargs)
        begin = {}
        for name in block_sites(self):
            site, z = trace[name], jnp.zeros(shapes[name])
            try:
                mean = jnp.broadcast_to(site["fn"].mean, jnp.shape(site["value"]))
                at = self._to(name).inv(mean)
                z = jnp.where(jnp.isfinite(at), at, z)
            except NotImplementedError:
                pass  # a law without a mean of closed form
            begin[name] = z
        return jax.lax.stop_gradient(_flatten(begin))


# -- what is read off it -----------------------------------------------------------------------


def place_optimal(part: AutoOptimalNormal, at: Coordinates) -> None:
    """Read a block after all others: the optima at their centre, and how they move with them.

    That is linear in the others, as :func:`moves` says; the sds are those at the centre.
    """
    roots = [
        at.share(f"{name}_{block.prefix}" if name else block.prefix, name)
        for block, name in at.guide.parents(part)
    ]
    sites = block_sites(part)
    others = [_Other(at, block, name) for block in at.guide if block is not part
              for name in block_sites(block)]  # fmt: skip
    places = np.concatenate([np.arange(at.target.dim)[at.target.slices[o.name]] for o in others])
    loc = at.location(places)
    root = np.concatenate([np.zeros((len(places), 0)), *(r[places] for r in roots)], axis=1)
    ends = np.cumsum([r.shape[1] for r in roots])[:-1]

    def values(z: Array) -> dict[str, Any]:
        cut = np.cumsum([o.size for o in others])[:-1]
        return {o.name: o.value(v) for o, v in zip(others, jnp.split(z, cut), strict=True)}

    def law(target: Target, plates: tuple[str, ...]) -> Callable[..., Any]:
        shapes = {name: target.sites[name].unconstrained_shape for name in sites}

        @jax.jit
        def read(loc: Array, root: Array, arrays: Any, weights: Any) -> Any:
            data = target.keywords(arrays)

            def density(eps: Array) -> FlatLogDensity:
                return part.density(values(loc + root @ eps), shapes, (), data)

            with ScaleUp(1.0, dict(zip(plates, weights, strict=True))):
                found = part.find(values(loc), shapes, (), data)
                return found, moves(density, found, root.shape[1])

        return read

    read: dict[int, Callable[..., Any]] = {}
    worst = 0.0
    for shown in at.sweep():
        run = read.setdefault(id(shown.target), law(shown.target, tuple(shown.plates)))
        weights = tuple(shown.plates.values())
        found, slope = run(jnp.asarray(loc), jnp.asarray(root), shown.arrays, weights)
        worst = max(worst, float(jnp.nan_to_num(found.step, nan=jnp.inf).max()))
        spots = np.concatenate([_spots(at.target, name, shown.members) for name in sites])
        at.put_known_normals(spots, np.asarray(found.loc), np.asarray(found.sd))
        for shared, columns in zip(roots, np.split(np.asarray(slope), ends, axis=1), strict=True):
            shared[spots] = columns
    if not worst <= SETTLED:
        at.doubts.append(
            f"a member of {', '.join(sites)} has not come to its optimum given the others: another "
            f"Newton step is {worst:.2g} sds long (limit {SETTLED:g}), so its law and the "
            "gradients are off; use 'conditional_normal', which takes no such steps"
        )


class _Other:
    """A site outside the block, at some unconstrained coordinates of it."""

    def __init__(self, at: Coordinates, block: Any, name: str) -> None:
        self.name = name
        self._shape = at.target.sites[name].unconstrained_shape
        self.size = int(np.prod(self._shape, dtype=int))
        self._to = biject_to(block.prototype_trace[name]["fn"].support)

    def value(self, z: Array) -> Array:
        """Return its value, constrained."""
        return self._to(z.reshape(self._shape))


def _spots(target: Target, name: str, members: np.ndarray | None) -> np.ndarray:
    """Return where in the target's vector the coordinates of some members are."""
    site = target.sites[name]
    spots = np.arange(target.dim)[target.slices[name]].reshape(site.unconstrained_shape)
    return spots.ravel() if members is None else spots[members].ravel()


def moves(
    density: Callable[[Array], FlatLogDensity], members: MemberNormals, num: int
) -> Float[Array, "local num"]:
    """Return the derivatives of the optimal means in what the others depend on, at zero.

    By the derivatives of the two equations that the optimum of each member solves.

    Parameters
    ----------
    density
        From standardised coordinates of the others to the density.
    members
        The optima at zero.
    num
        How many coordinates.
    """

    def equations(loc: Flat, log_sd: Flat, eps: Array) -> tuple[Flat, Flat]:
        slope, curvature = slope_and_curvature(density(eps), loc, jnp.exp(log_sd))
        return slope, 1 - jnp.exp(2 * log_sd) * curvature

    at = members.loc, jnp.log(members.sd), jnp.zeros(num, members.loc.dtype)
    zeros, ones, still = jnp.zeros_like(at[0]), jnp.ones_like(at[0]), jnp.zeros_like(at[2])
    a, c = jax.jvp(equations, at, (ones, zeros, still))[1]
    b, d = jax.jvp(equations, at, (zeros, ones, still))[1]

    def along(direction: Array) -> Flat:
        e, f = jax.jvp(equations, at, (zeros, zeros, direction))[1]
        return (b * f - d * e) / (a * d - b * c)

    return jax.lax.map(along, jnp.eye(num, dtype=members.loc.dtype)).T

"""Structured Gaussian VB: members that follow the shared parameters, by a deterministic ELBO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from vi_recipes.algebra import BlockArrow, LocalStructure, dense_structure
from vi_recipes.core import (
    MethodFailure,
    Progress,
    Status,
    Timing,
    generator,
    require,
    require_count,
    require_number,
    shapes_of,
)
from vi_recipes.importance import Bound, LogEvidence, sobol_normals
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.model import Arrays, Target, candidates
from vi_recipes.posterior import GaussianPosterior

MAX_BORDER = 200
"""Shared coordinates up to which their covariance, and every member's slopes in them, are free."""

MOST_SOBOL = 21_201
"""Dimensions of SciPy's Sobol sequence."""

AT_ONCE = 2**20
"""Numbers of data and coordinates that draws computed side by side read, about."""

FRESH, NUM_FRESH = 256, 8
"""Least pairs of fresh draws for the ELBO in the end, and how many independent sets of them."""


class ScaledNormal(NamedTuple):
    """The normal, in units of mean field's sds and counted from its means."""

    shared: Any
    """Locations of the shared coordinates, shape (G,)."""
    local: Any
    """Of the members', shape (T, d)."""
    root: Any
    """(G, G): below the diagonal as it is, on it as logarithms, above it not used."""
    slopes: Any
    """Of members in the shared coordinates' standard noise, shape (T, d, G)."""
    own: Any
    """(T, d, d), as ``root``: spread of a member given the shared coordinates."""


@dataclass(frozen=True, kw_only=True)
class StructuredVB(Method):
    """One normal: shared parameters with all their covariances, and members linear in them.

    On the unconstrained scale q(theta) is a normal with any covariance, and q(u_t | theta) one with
    a mean linear in theta and a covariance of its own: the normals whose precision is a block
    arrow, to which the posterior's belongs where it is normal. The ELBO is averaged over fixed
    draws in antithetic pairs with the right second moments, which makes it a smooth deterministic
    function, and L-BFGS maximises it from mean field's optimum. The reported ELBO is that of fresh
    draws. Without plates it is one normal with any covariance.

    Parameters
    ----------
    num_pairs
        Antithetic pairs of draws to begin with: four times as many, warm-started, until that moves
        no location and no sd by more than ``tolerance``.
    max_pairs
        Antithetic pairs of draws, at most.
    tolerance
        Sds by which a location may move then, and the part of it by which an sd may.
    max_steps
        Steps of L-BFGS for each set of draws.

    References
    ----------
    Giordano, R., Ingram, M. and Broderick, T. (2024). Black box variational inference with a
    deterministic objective. JMLR 25(18). https://jmlr.org/papers/v25/23-1015.html
    Tan, L. S. L. and Nott, D. J. (2018). Gaussian variational approximation with sparse precision
    matrices. Statistics and Computing 28. doi:10.1007/s11222-017-9729-7
    """

    key: ClassVar[str] = "structured"
    has_elbo: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "one normal whose members follow the shared parameters, deterministic: between mean field "
        "and linear response, with an ELBO"
    )
    by_default: ClassVar[bool] = False

    num_pairs: int = 64
    max_pairs: int = 1_024
    tolerance: float = 0.05
    max_steps: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("num_pairs", self.num_pairs, least=8)
        require_count("max_pairs", self.max_pairs)
        require(self.max_pairs >= self.num_pairs, "max_pairs", self.max_pairs, "at least num_pairs")
        require_number("tolerance", self.tolerance, above=0.0, most=1.0)
        require_count("max_steps", self.max_steps)

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        if reason := super().applies(target):
            return reason
        if (border := structure_of(target).border.size) > MAX_BORDER:
            return (
                f"{border} coordinates are in no plate with members of their own; a covariance of "
                f"at most {MAX_BORDER} is formed"
            )
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        start = MeanField().optimise(target, key, timing, progress)
        loc, sd = start.kl.factors.location_scale(np.asarray(start.eta, float))
        family = _Family(target, structure_of(target), loc, sd)
        first = max(self.num_pairs, 2 ** int(np.ceil(np.log2(2 * family.tied))))
        with jax.enable_x64(True), timing.running_compiled():
            elbo = family.objective(timing, 2 * first)
            seed = int(generator(key).integers(2**31 - 1))
            shape, pairs, moved = family.start(), first, np.inf
            trace: list[float] = []
            location = family.location(shape)
            while True:
                end, ok = self._climb(family, elbo, shape, (pairs, seed), trace, progress)
                new = family.location(end)
                step = np.abs(new - location) / family.sds(end)
                wider = np.abs(np.log(family.sds(end) / family.sds(shape)))
                moved = float(max(step.max(), wider.max())) if pairs > first else np.inf
                shape, location = end, new
                if not ok or moved <= self.tolerance or 4 * pairs > self.max_pairs:
                    break
                pairs *= 4
            fresh = first * -(-FRESH // first)  # in lots that the compiled code takes whole
            sets = [elbo(shape, family.noise(fresh, seed + 1 + k))[0] for k in range(NUM_FRESH)]
        value = float(np.mean(sets))
        if not np.isfinite(value):
            raise MethodFailure(
                Status.DIVERGED,
                "the ELBO over fresh draws is not finite: it reaches where the density is 0",
                "use NestedQuadrature or NUTS",
            )
        error = float(np.std(sets, ddof=1) / np.sqrt(NUM_FRESH))
        doubts = []
        if not ok:
            doubts.append(f"L-BFGS did not end within {self.max_steps} steps")
        if moved > self.tolerance:
            compared = (
                f"moved locations or sds by up to {moved:.2g}"
                if np.isfinite(moved)
                else "there are no more to compare them with"
            )
            doubts.append(f"{pairs} pairs of draws are the most, and {compared}")
        said = f"{pairs} pairs of draws, {len(trace)} steps; {family.describe()}"
        return Result(
            family.posterior(shape, step * family.sds(shape) / 2),
            Status.UNCONVERGED if doubts else Status.OK,
            "; ".join([*doubts, said]),
            "raise max_pairs, or max_steps" if doubts else "",
            trace={"elbo": np.asarray(trace), "elbo_step": np.arange(len(trace))},
            diagnostics={"elbo": value, "num_pairs": float(pairs), "moved": moved},
            log_evidence=LogEvidence(value, error, Bound.LOWER, "ELBO"),
        )

    def _climb(
        self,
        family: _Family,
        elbo: Callable[[ScaledNormal, np.ndarray], tuple[float, ScaledNormal]],
        shape: ScaledNormal,
        draws: tuple[int, int],
        trace: list[float],
        progress: Progress,
    ) -> tuple[ScaledNormal, bool]:
        """Return where L-BFGS ends over fixed draws, and whether that is a maximum."""
        noise = family.matched(family.noise(*draws))

        def fall(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = elbo(family.unravel(flat), noise)
            gradient = np.concatenate([np.ravel(v) for v in slope])
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                return np.inf, np.zeros_like(flat)
            return -value, -gradient

        def told(intermediate_result: Any) -> None:
            trace.append(-float(intermediate_result.fun))
            progress(len(trace), self.max_steps, f"ELBO {trace[-1]:.6g}")

        begin = np.concatenate([np.ravel(v) for v in shape])
        options = {"maxiter": self.max_steps, "maxfun": 4 * self.max_steps, "ftol": 1e-12,
                   "gtol": 1e-4, "maxcor": 20}  # fmt: skip
        with np.errstate(all="ignore"):
            end = minimize(fall, begin, jac=True, method="L-BFGS-B", callback=told, options=options)
        return family.unravel(end.x), bool(end.success and np.isfinite(end.fun))


def structure_of(target: Target) -> LocalStructure:
    """Return which coordinates are members': those of the plates that leave the fewest free."""
    best = dense_structure(target.dim)
    for found in candidates(target.latents, target.slices):
        if _free(found) < _free(best):
            best = found
    return best


def _free(structure: LocalStructure) -> int:
    border, local = structure.border.size, structure.local.size
    width = structure.local.shape[1]
    return border**2 // 2 + local * (border + (width + 1) // 2)


class _Family:
    """The normals of a structure, in units of mean field's."""

    def __init__(
        self, target: Target, structure: LocalStructure, loc: np.ndarray, sd: np.ndarray
    ) -> None:
        self.target, self.structure = target, structure
        self.centre, self.unit = np.asarray(loc), np.asarray(sd)
        self.members = structure.local.size > 0

    @property
    def tied(self) -> int:
        """Coordinates that draws of one member and of what it depends on have."""
        return int(self.structure.border.size + self.structure.local.shape[1])

    def describe(self) -> str:
        structure, dim = self.structure, self.structure.border.size
        if not self.members:
            return f"a normal of {dim} coordinates with any covariance"
        return (
            f"{len(structure.local)} members of {structure.plate}, linear in {dim} shared "
            "coordinates"
        )

    def start(self) -> ScaledNormal:
        g = self.structure.border.size
        t, d = self.structure.local.shape
        return ScaledNormal(
            np.zeros(g), np.zeros((t, d)), np.zeros((g, g)), np.zeros((t, d, g)),
            np.zeros((t, d, d)),
        )  # fmt: skip

    def unravel(self, flat: np.ndarray) -> ScaledNormal:
        like = self.start()
        ends = np.cumsum([v.size for v in like])[:-1]
        parts = np.split(flat, ends)
        return ScaledNormal(*(p.reshape(v.shape) for p, v in zip(parts, like, strict=True)))

    def noise(self, pairs: int, seed: int) -> Float[np.ndarray, "draws dim"]:
        """Return standard normals in antithetic pairs."""
        dim = self.target.dim
        if dim <= MOST_SOBOL:
            size = 2 ** int(np.ceil(np.log2(pairs)))
            half = sobol_normals(dim, size, [seed])[:pairs]
        else:
            half = np.random.default_rng(seed).standard_normal((pairs, dim))
        return np.stack([half, -half], axis=1).reshape(2 * pairs, dim)

    def matched(self, noise: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """Return draws whose second moments, of a member and the shared coordinates, are right.

        Of a log density that is quadratic the average is then exact.
        """
        count, local = len(noise), self.structure.local
        shared = noise[:, self.structure.border]
        shared = shared @ _whitener(shared.T @ shared / count)
        made = np.array(noise)
        made[:, self.structure.border] = shared
        if self.members:
            own = noise[:, local]
            lean = np.einsum("ng,nti->gti", shared, own) / count
            own = own - np.einsum("ng,gti->nti", shared, lean)
            cov = np.einsum("nti,ntj->tij", own, own) / count
            made[:, local] = np.einsum("nti,tij->ntj", own, _whitener(cov))
        return made

    def objective(
        self, timing: Timing, num_draws: int
    ) -> Callable[[ScaledNormal, np.ndarray], tuple[float, ScaledNormal]]:
        """Return the ELBO over given draws, any multiple of so many, with its gradient."""
        target, arrays = self.target, self.target.arrays()
        border, local = self.structure.border, self.structure.local
        centre, unit = jnp.asarray(self.centre), jnp.asarray(self.unit)
        size = sum(s.size for s in target.observed) + target.dim
        at_once = int(np.clip(AT_ONCE // size, 2, num_draws))
        while num_draws % at_once:
            at_once -= 1

        def total(
            shape: ScaledNormal, x: jax.Array, centre: jax.Array, unit: jax.Array, arrays: Arrays
        ) -> jax.Array:
            root, own = _triangular(shape.root, jnp), _triangular(shape.own, jnp)

            def density(x: jax.Array) -> jax.Array:
                z = jnp.zeros(target.dim).at[border].set(shape.shared + root @ x[border])
                if self.members:
                    moved = shape.local + shape.slopes @ x[border]
                    z = z.at[local].set(moved + jnp.einsum("tij,tj->ti", own, x[local]))
                return target.log_density_fn(centre + unit * z, arrays)

            return jax.vmap(density)(x).sum()

        both = jax.value_and_grad(total)
        example = self.start(), np.zeros((at_once, target.dim)), centre, unit, arrays
        compiled = target.compiled_once(
            ("structured ELBO", self.structure.sites, shapes_of(*example)),
            lambda: timing.compile(both, *example),
        )
        constant = np.log(self.unit).sum() + target.dim * (1 + np.log(2 * np.pi)) / 2

        def elbo(shape: ScaledNormal, noise: np.ndarray) -> tuple[float, ScaledNormal]:
            value, slope = 0.0, self.start()
            for first in range(0, len(noise), at_once):
                part = compiled(shape, noise[first : first + at_once], centre, unit, arrays)
                value += float(part[0]) / len(noise)
                slope = jax.tree.map(lambda a, b: a + np.asarray(b) / len(noise), slope, part[1])
            timing.gradient_evaluations += len(noise)
            logs = [np.diagonal(v, axis1=-2, axis2=-1) for v in (shape.root, shape.own)]
            i, j = np.arange(shape.root.shape[-1]), np.arange(shape.own.shape[-1])
            slope.root[i, i] += 1.0
            slope.own[:, j, j] += 1.0
            return value + sum(float(v.sum()) for v in logs) + float(constant), slope

        return elbo

    def location(self, shape: ScaledNormal) -> Float[np.ndarray, " dim"]:
        """Return the normal's mean."""
        z = np.zeros(self.target.dim)
        z[self.structure.border] = shape.shared
        z[self.structure.local] = shape.local
        return np.asarray(self.centre + self.unit * z)

    def sds(self, shape: ScaledNormal) -> Float[np.ndarray, " dim"]:
        """Return the normal's sds."""
        z = np.zeros(self.target.dim)
        z[self.structure.border] = np.sqrt((_triangular(shape.root, np) ** 2).sum(-1))
        own = (_triangular(shape.own, np) ** 2).sum(-1)
        z[self.structure.local] = np.sqrt(own + (shape.slopes**2).sum(-1))
        return np.asarray(self.unit * z)

    def posterior(self, shape: ScaledNormal, mcse: np.ndarray) -> GaussianPosterior:
        """Return the normal: by its root, or where there are members by its precision."""
        structure, loc, unit = self.structure, self.location(shape), self.unit
        root = _triangular(shape.root, np)
        if not self.members:
            none = np.zeros(self.target.dim)
            return GaussianPosterior(self.target, loc, unit[:, None] * root, none, mcse)
        own = np.linalg.inv(_triangular(shape.own, np))
        back = np.linalg.inv(root)
        lean = shape.slopes @ back
        by_border, by_local = 1 / unit[structure.border], 1 / unit[structure.local]
        blocks = np.einsum("tki,tkj->tij", own, own)
        edge = -np.einsum("tij,tjg->gti", blocks, lean)
        corner = back.T @ back - np.einsum("gti,tih->gh", edge, lean)
        precision = BlockArrow(
            structure,
            corner * np.outer(by_border, by_border),
            edge * by_border[:, None, None] * by_local,
            blocks * by_local[:, :, None] * by_local[:, None],
            np.ones(self.target.dim),
        )
        return GaussianPosterior(self.target, loc, None, np.zeros(self.target.dim), mcse, precision)


def _whitener(cov: Float[np.ndarray, "*lots n n"]) -> Float[np.ndarray, "*lots n n"]:
    """Return W with W' C W the identity."""
    return np.asarray(np.swapaxes(np.linalg.inv(np.linalg.cholesky(cov)), -1, -2))


def _triangular(free: Any, lib: Any) -> Any:
    """Return lower factors with positive diagonals."""
    diagonal = lib.exp(lib.diagonal(free, axis1=-2, axis2=-1))
    return lib.tril(free, -1) + diagonal[..., None] * lib.eye(free.shape[-1])

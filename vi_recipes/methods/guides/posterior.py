"""What a fitted guide says of the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import Predictive, autoguide

from vi_recipes.elbo import BETA, GAMMA, POINT, Factors
from vi_recipes.methods.guides.amortised import AutoAmortised
from vi_recipes.methods.guides.conditional import AutoConditionalNormal, AutoStructured
from vi_recipes.methods.guides.structured import (
    AutoFactors,
    block_sites,
)
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import (
    BlockPosterior,
    DrawsPosterior,
    GaussianPosterior,
    PointPosterior,
    Posterior,
    WeighedDraws,
)


class _Reader:
    """What the blocks read so far say of the coordinates."""

    def __init__(self, target: Target, params: Sites, noise: Sites | None) -> None:
        self.target, self.params, self.noise = target, params, noise
        self.known = np.zeros(target.dim, bool)
        self.factors = Factors(np.zeros(target.dim, int), np.zeros(target.dim))
        self.eta = np.zeros((target.dim, 2))
        self.shift = np.zeros((target.dim, 2))
        self.diagonal = np.zeros(target.dim)
        self.roots: dict[str, np.ndarray] = {}

    def read(self, part: Any, guide: Any) -> bool:
        """Read one block; return whether its law is known in closed form."""
        if isinstance(part, AutoConditionalNormal):
            self._read_conditional(part, guide)
        elif isinstance(part, AutoFactors):
            for name in part.sites:
                self._read_factor(part, name)
        elif isinstance(part, AutoAmortised):
            for name, (loc, scale) in part.locate(self.params, self.target).items():
                own = self.target.slices[name]
                self.known[own], self.eta[own, 0], self.diagonal[own] = True, loc, scale
        elif isinstance(part, autoguide.AutoDelta):
            self._read_points(part)
        elif isinstance(part, autoguide.AutoNormal):
            for name in block_sites(part):
                key, own = f"{name}_{part.prefix}", self.target.slices[name]
                self._place(own, f"{key}_loc")
                self.diagonal[own] = np.ravel(self.params[f"{key}_scale"])
        elif isinstance(part, autoguide.AutoMultivariateNormal):
            place = self._places(part)
            self._place(place, f"{part.prefix}_loc")
            self._add_root(part.prefix, place, self.params[f"{part.prefix}_scale_tril"])
        elif isinstance(part, autoguide.AutoLowRankMultivariateNormal):
            place = self._places(part)
            self._place(place, f"{part.prefix}_loc")
            q = part.get_posterior(self.params)
            self._add_root(part.prefix, place, np.asarray(q.cov_factor, float))
            self.diagonal[place] = np.sqrt(np.asarray(q.cov_diag, float))
        else:
            return False
        return True

    def _places(self, part: autoguide.AutoContinuous) -> np.ndarray:
        """Return where in the target's vector each coordinate of the block's is."""
        order = np.empty(part.latent_dim, int)
        for name, spots in part._unpack_latent(np.arange(part.latent_dim)).items():
            own = self.target.slices[name]
            order[np.ravel(np.asarray(spots))] = np.arange(own.start, own.stop)
        return order

    def _place(self, place: Any, name: str) -> None:
        self.known[place] = True
        self.eta[place, 0] = np.ravel(self.params[name])
        if self.noise is not None:
            self.shift[place, 0] = np.ravel(self.noise[name])

    def _add_root(self, key: str, place: Any, root: np.ndarray) -> None:
        whole = np.zeros((self.target.dim, root.shape[1]))
        whole[place] = root
        self.roots[key] = whole

    def _read_conditional(self, part: AutoConditionalNormal, guide: AutoStructured) -> None:
        """Read a block after those that it depends on, whose noise it shares."""
        shared = []
        for block, name in guide.parents(part):
            key = f"{name}_{block.prefix}" if name else block.prefix
            if key not in self.roots:  # independent normals, each with a noise of its own
                own = self.target.slices[name]
                self._add_root(key, own, np.diag(self.diagonal[own]))
                self.diagonal[own] = 0.0
            shared.append(self.roots[key])
        ends = np.cumsum([root.shape[1] for root in shared])[:-1]
        for name in block_sites(part):
            key, own = f"{name}_{part.prefix}", self.target.slices[name]
            self._place(own, f"{key}_loc")
            self.diagonal[own] = np.ravel(self.params[f"{key}_scale"])
            slope = self.params[f"{key}_slope"]
            slopes = np.split(slope.reshape(-1, slope.shape[-1]), ends, axis=1)
            for root, columns in zip(shared, slopes, strict=True):
                root[own] = columns

    def _read_points(self, part: autoguide.AutoDelta) -> None:
        values = self.target.constrain(np.zeros(self.target.dim))
        point = {n: self.params[f"{n}_{part.prefix}_loc"] for n in block_sites(part)}
        latents = {s.name: point.get(s.name, values[s.name]) for s in self.target.latents}
        z = self.target.unconstrain(latents)
        for name in point:
            place = self.target.slices[name]
            self.known[place], self.factors.code[place] = True, POINT
            self.eta[place, 0] = z[place]
            if self.noise is not None:
                self.shift[place, 0] = np.ravel(self.noise[f"{name}_{part.prefix}_loc"])

    def _read_factor(self, part: AutoFactors, name: str) -> None:
        place = self.target.slices[name]
        key = f"{name}_{part.prefix}"
        mean, size = (
            np.asarray(self.params[f"{key}_{what}"], float) for what in ("mean", "concentration")
        )
        error = 0.0 if self.noise is None else np.ravel(self.noise[f"{key}_mean"])
        self.known[place] = True
        if part.family == "gamma":
            self.factors.code[place] = GAMMA
            self.eta[place] = np.log(np.stack([size.ravel(), (size / mean).ravel()], axis=1))
            self.shift[place, 1] = -error  # the errors are those of log means
            return
        self.factors.code[place] = BETA
        if part.family == "beta":
            a, b = mean * size, (1 - mean) * size
        else:
            whole = mean * size[..., None]
            a = whole[..., :-1]
            # what is left of the stick, summed from its end
            b = np.cumsum(whole[..., :0:-1], axis=-1)[..., ::-1]
            sticks = np.log(np.arange(a.shape[-1], 0, -1.0))
            self.factors.offset[place] = np.broadcast_to(sticks, a.shape).ravel()
        self.eta[place] = np.log(np.stack([a.ravel(), b.ravel()], axis=1))
        share = (a / (a + b)).ravel()
        self.shift[place] = np.stack([(1 - share) * error, -share * error], axis=1)

    def posterior(self) -> BlockPosterior:
        root = np.concatenate([np.zeros((self.target.dim, 1)), *self.roots.values()], axis=1)
        normal = self.factors.gaussian & ~self.factors.points
        scale = np.sqrt(self.diagonal**2 + np.einsum("ij,ij->i", root, root))
        self.eta[normal, 1] = np.log(scale[normal])
        shift = None if self.noise is None else self.shift
        return BlockPosterior(
            self.target, self.factors, self.eta, shift, root=root, diagonal=self.diagonal
        )


def read_structured(
    guide: autoguide.AutoGuideList,
    params: Mapping[str, Any],
    target: Target,
    noise: Mapping[str, Any] | None,
) -> Posterior | None:
    """Return what a fitted list of guides says of the posterior, or ``None`` if it must be drawn.

    Parameters
    ----------
    guide, params
        The guide and its optimised, constrained parameters.
    target
        What it was fitted to.
    noise
        Standard errors of the unconstrained parameters from the optimiser's noise, where known.
    """
    values = {name: np.asarray(value, float) for name, value in params.items()}
    errors = {n: np.asarray(v, float) for n, v in noise.items()} if noise else None
    reader = _Reader(target, values, errors)
    if all(reader.read(part, guide) for part in guide) and reader.known.all():
        return reader.posterior()
    return None


NUM_DRAWS = 4_000


def flat_order(guide: autoguide.AutoContinuous, target: Target) -> np.ndarray:
    """Return where in the guide's flat vector each coordinate of the target's is.

    Guides order their vector by the sites as they met them, which is model order, or alphabetical
    where JAX has passed the sites through a dict.
    """
    places = guide._unpack_latent(jnp.arange(target.dim))
    return np.asarray(target.ravel(places)).astype(int)


def read_guide(
    guide: Any,
    params: Mapping[str, Any],
    target: Target,
    key: jax.Array,
    noise: Mapping[str, Any] | None,
) -> Posterior:
    """Return what a fitted guide says of the posterior, on the constrained scale.

    Parameters
    ----------
    guide, params
        The guide and its optimised, constrained parameters.
    target
        What it was fitted to.
    key
        Seeds the draws of guides whose moments have no closed form.
    noise
        Standard errors of ``params`` from the optimiser's noise, where known.
    """
    if isinstance(guide, autoguide.AutoDelta):
        latents = {n: np.asarray(v)[None] for n, v in guide.median(params).items()}
        return PointPosterior({n: np.asarray(v[0]) for n, v in target.complete(latents).items()})
    if isinstance(guide, autoguide.AutoGuideList):
        posterior = read_structured(guide, params, target, noise)
        if posterior is not None:
            return posterior
    prefix = getattr(guide, "prefix", "")
    if isinstance(guide, autoguide.AutoNormal):
        suffix = f"_{prefix}_"

        def flat(values: Mapping[str, Any], what: str) -> np.ndarray:
            sites = {s.name: values[f"{s.name}{suffix}{what}"] for s in target.latents}
            return np.asarray(target.ravel(sites), float)

        error = flat(noise, "loc") if noise else None
        return GaussianPosterior(target, flat(params, "loc"), None, flat(params, "scale"), error)
    if isinstance(
        guide,
        autoguide.AutoMultivariateNormal
        | autoguide.AutoLowRankMultivariateNormal
        | autoguide.AutoDiagonalNormal,
    ):
        order = flat_order(guide, target)
        q = guide.get_posterior(params)
        loc = np.asarray(params[f"{prefix}_loc"], float)[order]
        error = np.asarray(noise[f"{prefix}_loc"], float)[order] if noise else None
        if isinstance(guide, autoguide.AutoLowRankMultivariateNormal):
            root = np.asarray(q.cov_factor, float)[order]
            diagonal = np.sqrt(np.asarray(q.cov_diag, float))[order]
            return GaussianPosterior(target, loc, root, diagonal, error)
        if isinstance(guide, autoguide.AutoMultivariateNormal):
            root = np.asarray(q.scale_tril, float)[order]
            return GaussianPosterior(target, loc, root, np.zeros(loc.size), error)
        scale = np.asarray(params[f"{prefix}_scale"], float)[order]
        return GaussianPosterior(target, loc, None, scale, error)
    # DAIS has draws and no density
    if isinstance(guide, autoguide.AutoContinuous) and not isinstance(guide, autoguide.AutoDAIS):
        # not sample_posterior, whose map to the constrained scale belongs to the guide's set-up
        q = guide.get_posterior(params)
        own, between = q.sample_with_intermediates(key, (NUM_DRAWS,))
        z = np.asarray(own, float)[:, flat_order(guide, target)]
        draws = target.constrain(z)
        drawn = WeighedDraws(z, np.asarray(q.log_prob(own, between), float), draws)
        return DrawsPosterior(
            {n: v[None] for n, v in draws.items()}, independent=True, weighed=drawn
        )
    data = target.keywords(target.arrays())
    # a list's own sample_posterior hands all its parts one key, which correlates them
    if isinstance(guide, autoguide.AutoGuide) and not isinstance(guide, autoguide.AutoGuideList):
        latents = guide.sample_posterior(key, dict(params), sample_shape=(NUM_DRAWS,))
    else:
        latents = Predictive(guide, params=dict(params), num_samples=NUM_DRAWS)(key, **data)
    missing = [s.name for s in target.latents if s.name not in latents]
    if missing:
        raise ValueError(
            f"guide: it has no sample site for latent site(s) {', '.join(missing)} of the model; "
            "every latent site needs one of the same name"
        )
    samples = {n: v[None] for n, v in target.complete(latents).items()}
    known = {name: np.asarray(value) for name, value in params.items()}
    return DrawsPosterior(samples, independent=True, params=known)

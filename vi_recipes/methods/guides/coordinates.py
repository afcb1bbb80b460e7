"""The law of a target's coordinates, put together from what the blocks of a guide say of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Timing
from vi_recipes.elbo import BETA, GAMMA, POINT, Factors
from vi_recipes.model import Arrays, Target
from vi_recipes.posterior import BlockPosterior, GaussianPosterior


@dataclass(frozen=True)
class FittedGuide:
    """What a guide was fitted to, and what came out.

    Parameters
    ----------
    params
        Its optimised, constrained parameters.
    target
        What it was fitted to.
    key
        Seeds the draws of guides whose moments have no closed form.
    noise
        Standard errors of the unconstrained parameters from the optimiser's noise, where known.
    timing
        Charged with what reading takes.
    sweep
        Shows the members of the plate that minibatches are drawn of, all of them once; ``None``
        where the target holds them.
    doubts
        What reading has found wrong, in words.
    """

    params: Mapping[str, Any]
    target: Target
    key: jax.Array
    noise: Mapping[str, Any] | None = None
    timing: Timing = field(default_factory=Timing)
    sweep: Callable[[], Iterable[Shown]] | None = None
    doubts: list[str] = field(default_factory=list)


class Shown(NamedTuple):
    """Some members of a plate, with all their rows.

    Parameters
    ----------
    target
        The model on as many members and rows.
    arrays
        Their data.
    members
        Their numbers in the plate; ``None`` where these are all.
    plates
        Plate -> weights of its members, as those of ``ScaleUp``.
    """

    target: Target
    arrays: Arrays
    members: np.ndarray | None = None
    plates: Mapping[str, Any] = MappingProxyType({})


class Coordinates:
    """What the blocks read so far say of the coordinates of a target, unconstrained.

    Normals are loc + root @ e + diagonal * e', with e shared between the blocks of a root and e' of
    each coordinate's own; other laws are independent factors.

    Parameters
    ----------
    guide
        The guide, or the list of the blocks.
    fitted
        What it was fitted to, and what came out.
    """

    def __init__(self, guide: Any, fitted: FittedGuide) -> None:
        self.guide, self.target = guide, fitted.target
        self.params = {name: np.asarray(value, float) for name, value in fitted.params.items()}
        self.doubts = fitted.doubts
        self._sweep = fitted.sweep
        noise = fitted.noise
        self.noise = {n: np.asarray(v, float) for n, v in noise.items()} if noise else None
        dim = self.target.dim
        self._known = np.zeros(dim, bool)
        self._factors = Factors(np.zeros(dim, int), np.zeros(dim))
        self._eta = np.zeros((dim, 2))
        self._shift = np.zeros((dim, 2))
        self._diagonal = np.zeros(dim)
        self._roots: dict[str, np.ndarray] = {}

    @property
    def missing(self) -> list[str]:
        """Latent sites of which no block has said anything."""
        return [name for name, place in self.target.slices.items() if not self._known[place].all()]

    def sweep(self) -> Iterable[Shown]:
        """Return all members of the target's plates, in parts where rows are elsewhere."""
        return self._sweep() if self._sweep else [Shown(self.target, self.target.arrays())]

    def location(self, place: Any) -> Float[np.ndarray, " place"]:
        """Return the locations of coordinates that are normal or points."""
        return self._eta[place, 0]

    # -- what blocks say -------------------------------------------------------------------------

    def put_normals(self, place: Any, name: str, sd: Any) -> None:
        """Take in normals.

        Parameters
        ----------
        place
            The coordinates: a slice, or their numbers.
        name
            Parameter that holds their locations, whose noise is theirs.
        sd
            Of the part that each coordinate has to itself.
        """
        self.put_known_normals(place, self.params[name], sd)
        if self.noise is not None:
            self._shift[place, 0] = np.ravel(self.noise[name])

    def put_known_normals(self, place: Any, loc: Any, sd: Any) -> None:
        """Take in normals at locations that no one parameter holds."""
        self._known[place] = True
        self._eta[place, 0] = np.ravel(loc)
        self._diagonal[place] = np.ravel(sd)

    def put_root(self, key: str, place: Any, root: Float[np.ndarray, "place shared"]) -> None:
        """Take in what normals have in common, under a key by which others may share it."""
        whole = np.zeros((self.target.dim, root.shape[1]))
        whole[place] = root
        self._roots[key] = whole

    def share(self, key: str, name: str) -> Float[np.ndarray, "dim shared"]:
        """Return the root of a key, to be extended in place.

        Where there is none yet, ``name`` is a site of independent normals, whose noise becomes one.
        """
        if key not in self._roots:
            place = self.target.slices[name]
            self.put_root(key, place, np.diag(self._diagonal[place]))
            self._diagonal[place] = 0.0
        return self._roots[key]

    def put_points(self, points: Mapping[str, Any], prefix: str) -> None:
        """Take in points, site -> value on the constrained scale; ``prefix`` is the block's."""
        values = self.target.constrain(np.zeros(self.target.dim))
        latents = {s.name: points.get(s.name, values[s.name]) for s in self.target.latents}
        z = self.target.unconstrain(latents)
        for name in points:
            place = self.target.slices[name]
            self._known[place], self._factors.code[place] = True, POINT
            self._eta[place, 0] = z[place]
            if self.noise is not None:
                self._shift[place, 0] = np.ravel(self.noise[f"{name}_{prefix}_loc"])

    def put_gammas(self, name: str, shape: Any, rate: Any, error: Any) -> None:
        """Take in independent gamma laws of a site; ``error`` is that of log means."""
        place = self.target.slices[name]
        self._known[place], self._factors.code[place] = True, GAMMA
        self._eta[place] = np.log(np.stack([shape.ravel(), rate.ravel()], axis=1))
        self._shift[place, 1] = -error

    def put_betas(self, name: str, a: Any, b: Any, error: Any, offset: Any = None) -> None:
        """Take in independent beta laws of a site.

        Parameters
        ----------
        name
            The site.
        a, b
            The parameters of the laws.
        error
            Of the logits of means.
        offset
            Of the logits, where the laws are those of the sticks of a simplex.
        """
        place = self.target.slices[name]
        self._known[place], self._factors.code[place] = True, BETA
        if offset is not None:
            self._factors.offset[place] = np.broadcast_to(offset, a.shape).ravel()
        self._eta[place] = np.log(np.stack([a.ravel(), b.ravel()], axis=1))
        share = (a / (a + b)).ravel()
        self._shift[place] = np.stack([(1 - share) * error, -share * error], axis=1)

    # -- what comes of it ------------------------------------------------------------------------

    def gaussian(self) -> GaussianPosterior:
        """Return the posterior of one guide of normals over all coordinates."""
        roots = list(self._roots.values())
        return GaussianPosterior(
            self.target,
            self._eta[:, 0].copy(),
            roots[0] if roots else None,
            self._diagonal,
            None if self.noise is None else self._shift[:, 0].copy(),
        )

    def blocks(self) -> BlockPosterior:
        """Return the posterior of blocks of any law."""
        root = np.concatenate([np.zeros((self.target.dim, 1)), *self._roots.values()], axis=1)
        normal = self._factors.gaussian & ~self._factors.points
        scale = np.sqrt(self._diagonal**2 + np.einsum("ij,ij->i", root, root))
        self._eta[normal, 1] = np.log(scale[normal])
        shift = None if self.noise is None else self._shift
        return BlockPosterior(
            self.target, self._factors, self._eta, shift, root=root, diagonal=self._diagonal
        )

"""Label switching: exchangeable components put in one order before they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import factorial
from typing import override

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.optimize import linear_sum_assignment

from vi_recipes.model import Exchangeable, Sites
from vi_recipes.posterior.base import Posterior, WeighedDraws

ENUMERATE_UP_TO = 6
"""Up to this many components all permutations are scored at once."""


def relabel_draws(
    samples: Sites, groups: Sequence[Exchangeable], pivot: Sites
) -> tuple[Sites, float]:
    """Permute the labels of every draw to lie closest to ``pivot``.

    Parameters
    ----------
    samples
        Draws shaped (chain, draw, *site shape).
    groups
        Sites subject to label switching.
    pivot
        Values of one labelling, shaped (*site shape).

    Returns
    -------
    tuple
        The relabelled draws, and the largest share of draws that any group had relabelled.
    """
    result, share = dict(samples), 0.0
    for group in groups:
        features = _features(group, result, leading=2)
        centre = _features(group, pivot, leading=0)
        chains, draws, k, _ = features.shape
        flat = features.reshape(chains * draws, k, -1)
        order = _assign(flat, centre, flat.reshape(chains * draws * k, -1).std(0))
        share = max(share, float((order != np.arange(k)).any(1).mean()))
        for name, axis in group.sites.items():
            moved = np.moveaxis(result[name], axis + 2, 2).reshape(
                chains * draws, k, *np.delete(np.array(samples[name].shape[2:]), axis)
            )
            index = order.reshape(order.shape + (1,) * (moved.ndim - 2))
            taken = np.take_along_axis(moved, index, axis=1)
            result[name] = np.moveaxis(taken.reshape(chains, draws, *taken.shape[1:]), 2, axis + 2)
    return result, share


def match(
    values: Sites, reference: Sites, groups: Sequence[Exchangeable]
) -> list[Int[np.ndarray, " labels"]]:
    """Return, for each group, the order of labels that brings ``values`` closest to ``reference``.

    Sites with NaN in either are left out of the matching.
    """
    orders = []
    for group in groups:
        known = {
            n: a
            for n, a in group.sites.items()
            if np.isfinite(values[n]).all() and np.isfinite(reference[n]).all()
        }
        size = values[next(iter(group.sites))].shape[next(iter(group.sites.values()))]
        if not known:
            orders.append(np.arange(size))
            continue
        usable = Exchangeable(sites=known)
        mine, theirs = _features(usable, values, 0), _features(usable, reference, 0)
        orders.append(_assign(mine[None], theirs, np.concatenate([mine, theirs]).std(0))[0])
    return orders


@dataclass(frozen=True)
class PermutedPosterior(Posterior):
    """A posterior with the labels of its exchangeable components in another order.

    Parameters
    ----------
    base
        The posterior as fitted.
    groups
        Sites subject to label switching.
    orders
        For each group, which old label stands at each new one.
    """

    base: Posterior
    groups: tuple[Exchangeable, ...]
    orders: tuple[Int[np.ndarray, " labels"], ...]

    def permute(self, values: Mapping[str, np.ndarray], leading: int = 0) -> Sites:
        """Return values by site with their labels in the new order."""
        result = dict(values)
        for group, order in zip(self.groups, self.orders, strict=True):
            for name, axis in group.sites.items():
                result[name] = np.take(result[name], order, axis=axis + leading)
        return result

    @override
    def mean(self) -> Sites:
        return self.permute(self.base.mean())

    @override
    def sd(self) -> Sites:
        return self.permute(self.base.sd())

    @override
    def mcse_mean(self) -> Sites:
        return self.permute(self.base.mcse_mean())

    @override
    def mcse_sd(self) -> Sites:
        return self.permute(self.base.mcse_sd())

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        cov = self.base.cov(sites)
        shapes = {n: v.shape for n, v in self.base.mean().items()}
        places, offset = {}, 0
        for name in sites:
            size = int(np.prod(shapes[name], dtype=int))
            places[name] = np.arange(offset, offset + size).reshape(shapes[name])
            offset += size
        full = {n: places.get(n, np.zeros(shape, int)) for n, shape in shapes.items()}
        permuted = self.permute(full)
        rows = np.concatenate([permuted[n].ravel() for n in sites])
        return np.asarray(cov[np.ix_(rows, rows)])

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        return self.permute(self.base.draws(num_draws, key), leading=1)

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        drawn = self.base.weighed_draws(num_draws, key)
        # the density is that of the labelling that was fitted
        return None if drawn is None else replace(drawn, values=self.permute(drawn.values, 1))

    @property
    def samples(self) -> Sites | None:
        """The base's draws, relabelled; ``None`` if it keeps none."""
        kept = getattr(self.base, "samples", None)
        return None if kept is None else self.permute(kept, leading=2)


def _features(
    group: Exchangeable, values: Mapping[str, np.ndarray], leading: int
) -> Shaped[np.ndarray, "*leading labels features"]:
    """Return (*leading shape, label, feature)."""
    parts = []
    for name, axis in group.sites.items():
        moved = np.moveaxis(values[name], axis + leading, leading)
        parts.append(moved.reshape(*moved.shape[: leading + 1], -1))
    return np.concatenate(parts, axis=-1)


def _assign(
    items: Shaped[np.ndarray, "items labels features"],
    centre: Shaped[np.ndarray, "labels features"],
    scale: Float[np.ndarray, " features"],
) -> Int[np.ndarray, "items labels"]:
    """Return (item, new label) -> old label, of least squared distance to ``centre``.

    ``items`` is (item, old label, feature), ``centre`` (new label, feature).
    """
    weight = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0.0)
    a, b = items * weight, centre * weight
    # cost[i, new, old], without forming all differences
    cost = (b**2).sum(-1)[None, :, None] + (a**2).sum(-1)[:, None, :]
    cost -= 2 * np.einsum("nf,iof->ino", b, a)
    k = len(centre)
    if k <= ENUMERATE_UP_TO:
        every = np.array(list(permutations(range(k)))).reshape(factorial(k), k)
        total = cost[:, np.arange(k), every].sum(-1)
        return np.asarray(every[total.argmin(1)])
    return np.stack([linear_sum_assignment(c)[1] for c in cost])

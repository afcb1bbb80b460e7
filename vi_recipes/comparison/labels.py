"""Exchangeable components of several fits, put in one order before they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vi_recipes.comparison.notes import Note, NoteKind
from vi_recipes.fit import Fit
from vi_recipes.model import Exchangeable, Target
from vi_recipes.posterior import PermutedPosterior, match

MOST_COMPONENTS = 20
"""Longer axes are not looked at for components that can be exchanged."""

APART = 3.0
"""Posterior sds between components of a fit that has them in one order only."""

UNCHANGED = 1e-8
"""Relative change of a log density that is rounding."""


@dataclass(frozen=True)
class Relabelling:
    """What takes a fit's components to the order in which they are compared.

    Parameters
    ----------
    groups
        Sites subject to label switching.
    orders
        For each group, which old label stands at each new one.
    """

    groups: tuple[Exchangeable, ...]
    orders: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        return "; ".join(str([int(label) for label in order]) for order in self.orders)

    def apply(self, fit: Fit) -> Fit:
        """Return a fit that has a result with its components in the new order."""
        posterior = PermutedPosterior(fit.known_posterior(), self.groups, self.orders)
        assessment = fit.assessment and fit.assessment.permuted(posterior.permute)
        return replace(fit, posterior=posterior, assessment=assessment)

    def to_json(self) -> list[dict[str, Any]]:
        """Return it as lists and numbers, a group an entry."""
        return [
            {"sites": dict(group.sites), "order": order.tolist()}
            for group, order in zip(self.groups, self.orders, strict=True)
        ]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]]) -> Relabelling:
        """Return what :meth:`to_json` was made of."""
        groups = tuple(Exchangeable(sites=entry["sites"]) for entry in entries)
        return cls(groups, tuple(np.array(entry["order"], int) for entry in entries))


def relabellings(
    fits: Mapping[str, Fit], pivot: Fit | None, groups: Sequence[Exchangeable]
) -> dict[str, Relabelling]:
    """Return what brings the fits closest to ``pivot``; fits in its order already are left out."""
    if not groups or pivot is None:
        return {}
    centre = pivot.mean()
    found = {}
    for name, fit in fits.items():
        if fit.has_result:
            orders = match(fit.mean(), centre, groups)
            if any((order != np.arange(order.size)).any() for order in orders):
                found[name] = Relabelling(tuple(groups), tuple(orders))
    return found


def label_notes(
    moved: Mapping[str, Relabelling], pivot: Fit | None, target: Target, fits: Mapping[str, Fit]
) -> list[str]:
    """Return what a reader of the report must know of the order of components."""
    if pivot is None:
        return []
    groups = target.exchangeable
    if not groups:
        return list(_unnamed(target, fits))
    matched = [
        f"Components of {', '.join(group.sites)} are exchangeable: their labels are matched to "
        f"those of {pivot.method} (optimal assignment) before anything is compared."
        for group in groups
    ]
    return matched + [f"{n}: components taken in the order {how}." for n, how in moved.items()]


def _unnamed(target: Target, fits: Mapping[str, Fit]) -> Iterator[Note]:
    """Yield what is to be said of components that the model does not name as exchangeable.

    Where the density is the same with two of them exchanged, and a fit has them far apart, the
    other order is as much of the posterior and the fit has none of it.
    """
    spread = [fit for fit in fits.values() if fit.has_result and not fit.is_point]
    for group in _alike(target):
        apart = next((fit for fit in spread if _stand_apart(fit, group)), None)
        if apart is None or not _same_exchanged(target, apart.mean(), group):
            continue
        yield Note(
            f"Components of {', '.join(group.sites)} can be exchanged: the posterior has every "
            "order of them alike, and a fit around one has one. Name them, and labels are matched: "
            f"Model(exchangeable=[Exchangeable(sites={dict(group.sites)})]).",
            NoteKind.UNNAMED_LABELS,
        )
        return


def _alike(target: Target) -> Iterator[Exchangeable]:
    """Yield what may be exchangeable in a mixture: axes of one length that count no members."""
    counted = {site.name for site in target.latents if site.components}
    if not counted and all(site.kind != "discrete" for site in target.sites.values()):
        return
    axes: dict[int, dict[str, int]] = {}
    for site in target.latents:
        of_members = {axis % len(site.shape) for name, _, axis in site.plates
                      if name not in site.components}  # fmt: skip
        for axis, length in enumerate(site.shape):
            if axis not in of_members and 1 < length <= MOST_COMPONENTS:
                axes.setdefault(length, {}).setdefault(site.name, axis)
    for places in axes.values():
        yield Exchangeable(sites=places)
        among = {name: axis for name, axis in places.items() if name in counted}
        if 0 < len(among) < len(places):  # others may be as long by chance
            yield Exchangeable(sites=among)


def _stand_apart(fit: Fit, group: Exchangeable) -> bool:
    """Whether two components differ by many posterior sds in some site."""
    mean, sd = fit.mean(), fit.sd()
    for name, axis in group.sites.items():
        values, widths = (np.moveaxis(moments[name], axis, 0) for moments in (mean, sd))
        between = np.abs(values[:, None] - values[None])
        if (between > APART * np.maximum(widths[:, None], widths[None])).any():
            return True
    return False


def _same_exchanged(target: Target, values: Mapping[str, np.ndarray], group: Exchangeable) -> bool:
    """Whether the log density is the same with neighbouring components exchanged, all of them."""
    latents = {site.name: values[site.name] for site in target.latents}
    size = next(latents[name].shape[axis] for name, axis in group.sites.items())
    orders = [np.arange(size), np.roll(np.arange(size), 1), np.r_[1, 0, 2:size]]
    try:
        here, *there = (
            target.log_density(target.unconstrain({
                name: np.take(value, order, group.sites[name]) if name in group.sites else value
                for name, value in latents.items()
            }))
            for order in orders
        )  # fmt: skip
    except ValueError:  # such as increasing values, in another order
        return False
    return all(abs(one - here) <= UNCHANGED * (1 + abs(here)) for one in there)

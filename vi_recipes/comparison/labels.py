"""Exchangeable components of several fits, put in one order before they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vi_recipes.comparison.notes import Note, NoteKind
from vi_recipes.fit import Fit
from vi_recipes.model import Exchangeable, Target, other_labelling, undeclared
from vi_recipes.posterior import PermutedPosterior, match


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
        return list[str](_undeclared(target, fits))
    matched = [
        f"Components of {', '.join(group.sites)} are exchangeable: their labels are matched to "
        f"those of {pivot.method} (optimal assignment) before anything is compared."
        for group in groups
    ]
    return matched + [f"{n}: components taken in the order {how}." for n, how in moved.items()]


def _undeclared(target: Target, fits: Mapping[str, Fit]) -> list[Note]:
    """Return what is to be said of a mixture's components that the model does not declare."""
    if not any(site.components or site.kind == "discrete" for site in target.sites.values()):
        return []
    spread = (fit for fit in fits.values() if fit.has_result and not fit.is_point)
    for fit in spread:
        if group := other_labelling(target, fit.mean(), fit.sd()):
            said, advice = (text[0].upper() + text[1:] for text in undeclared(group))
            return [Note(f"{said}. {advice}.", NoteKind.UNDECLARED_LABELS)]
    return []

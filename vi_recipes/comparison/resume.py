"""What an earlier comparison of the same target has fitted already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vi_recipes.cells import mark_of_objects
from vi_recipes.comparison.beside import holds_comparison
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.folder import read_header
from vi_recipes.comparison.notes import Note, NoteKind, of_kind
from vi_recipes.core import Status
from vi_recipes.fit import Fit, provenance
from vi_recipes.methods import Method
from vi_recipes.model import Target, model_mark

DONE = (Status.OK, Status.UNCONVERGED, Status.COLLAPSED, Status.SINGULAR, Status.DEGENERATE)
"""How fits ended that would end so again."""

CAME_TO_NOTHING = {
    Status.INTERRUPTED: "it was interrupted",
    Status.DIVERGED: "it diverged",
    Status.NOT_APPLICABLE: "it did not apply",
    Status.FAILED: "it failed",
}
"""What is said of fits that are made once more, because they might end otherwise."""


def taken_up(comparison: Comparison) -> list[str]:
    """Return what a comparison's notes say of an earlier one in its folder."""
    return of_kind(comparison.notes, NoteKind.RESUMED, NoteKind.REPLACED)


@dataclass(frozen=True)
class Resumed:
    """What is taken up of an earlier comparison, and what is to be fitted in spite of it.

    Parameters
    ----------
    notes
        Whose the earlier one was, and what is taken up.
    again, now
        Methods that it had a fit of, and those that it had come to no fit of -> why they are to be
        fitted.
    lost
        Fits that nobody asks for, and that are not taken up -> why.
    """

    notes: Sequence[str] = ()
    again: Mapping[str, str] = field(default_factory=dict)
    now: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)

    def said(self, fits: Mapping[str, Fit]) -> list[str]:
        """Return sentences on it, once there are these fits: an interrupt may keep some away."""

        def there(names: Mapping[str, str]) -> dict[str, str]:
            return {n: why for n, why in names.items() if n in fits and not _is_cut_off(fits[n])}

        again, now = there(self.again), there(self.now)
        told = {
            "Fitted again": again,
            "Fitted now": now,
            "Not taken up": {n: why for n, why in self.again.items() if n not in again},
            "Left behind": self.lost,
        }
        return [
            *self.notes,
            *(
                Note(
                    f"{lead}: {', '.join(f'{name} ({why})' for name, why in names.items())}.",
                    NoteKind.RESUMED,
                )
                for lead, names in told.items()
                if names
            ),
        ]


def _is_cut_off(fit: Fit) -> bool:
    """Whether an interrupt came before a fit had a result."""
    return fit.status is Status.INTERRUPTED and not fit.has_result


def fits_in(folder: Path) -> list[str]:
    """Return the names of the fits that a folder holds; none where it holds no comparison."""
    return list(read_header(folder)["fits"]) if holds_comparison(folder) else []


def reuse(
    folder: Path, named: Mapping[str, Method | Fit], target: Target, seed: int
) -> tuple[dict[str, Method | Fit], Resumed]:
    """Return what is to be compared, with the fits of an earlier comparison in their places.

    Parameters
    ----------
    folder
        Where the earlier comparison is, if there is one.
    named
        What is asked for; of it, what is the same as before is taken from there.
    target, seed
        What is fitted, and how it is seeded.

    Returns
    -------
    tuple
        Name -> method or fit: those of the earlier comparison that nobody asks for anew, and what
        is asked for. And what was taken and what not.

    Raises
    ------
    ValueError
        For an earlier comparison that cannot be read.
    """
    if not holds_comparison(folder):
        return dict(named), Resumed()
    try:
        earlier = Comparison.load(folder)
    except ValueError as error:
        raise ValueError(
            f"path: the earlier comparison in {folder} cannot be taken up: {error}; "
            "expected another folder, or resume=False (no --resume), which replaces it"
        ) from None
    if why := _other_target(earlier, target):
        return dict(named), Resumed(
            [
                Note(
                    f"Nothing was taken up from the earlier comparison: {why}. Its fits are "
                    f"replaced: {', '.join(earlier.fits)}.",
                    NoteKind.REPLACED,
                )
            ]
        )
    taken: dict[str, Fit] = {}
    again: dict[str, str] = {}
    lost: dict[str, str] = {}
    when = f"{earlier.left.what} when the earlier run was interrupted"
    now = {n: when for n in earlier.left.names if isinstance(named.get(n), Method)}
    for name, fit in earlier.fits.items():
        why, given = _of_other_versions(fit, target), named.get(name)
        if given is None and why:
            lost[name] = why
        elif given is None:
            taken[name] = fit
        elif isinstance(given, Method) and _is_cut_off(fit):
            now[name] = "the earlier run was interrupted before it had a result"
        elif isinstance(given, Method) and (why := why or _why_anew(fit, given, seed)):
            again[name] = why
        elif isinstance(given, Method):
            taken[name] = fit
    result: dict[str, Method | Fit] = {n: fit for n, fit in taken.items() if n not in named}
    result |= {name: taken.get(name, given) for name, given in named.items()}
    notes = of_kind(earlier.notes, NoteKind.BY_WORKERS, NoteKind.SIDE_BY_SIDE) if taken else []
    if taken:
        notes.append(
            Note(
                "Taken up from the earlier comparison, with the seconds of that time: "
                f"{', '.join(taken)}.",
                NoteKind.RESUMED,
            )
        )
    return result, Resumed(notes, again, now, lost)


def _other_target(earlier: Comparison, target: Target) -> str:
    """Return why an earlier comparison is of another target; empty where it is not."""
    if earlier.target_name != target.name:
        return f"it is of the model '{earlier.target_name}', and this is '{target.name}'"
    prints = {fit.provenance.data_fingerprint for fit in earlier.fits.values()}
    if prints != {target.fingerprint}:
        return "its data are others"
    if earlier.model_mark != model_mark(target):
        return "the model was changed, or is computed by another version of JAX"
    return ""


def _of_other_versions(fit: Fit, target: Target) -> str:
    theirs = fit.provenance.versions
    ours = provenance(target, seed=None, dtype="").versions
    other = [
        f"{n} {theirs.get(n, 'unknown')}, now {ours[n]}" for n in ours if theirs.get(n) != ours[n]
    ]
    return f"made with {'; '.join(other)}" if other else ""


def _why_anew(fit: Fit, method: Method, seed: int) -> str:
    """Return why a method is to be fitted again; empty where it would be the same fit."""
    if fit.kind != method.key:
        return f"it was {fit.kind}"
    before, now = _plain(fit.config), _plain(method.options())
    if before != now:
        other = [f"{n} was {before.get(n)!r}" for n in now if before.get(n) != now[n]]
        return ", ".join(other) or "its options are others"
    if mark_of_objects(method) != fit.provenance.objects:
        names = " and ".join(method.objects) or "options"
        return f"its {names} may be another of that name"
    if fit.provenance.seed != seed:
        return f"its seed was {fit.provenance.seed}"
    if fit.status not in DONE:
        return CAME_TO_NOTHING[fit.status]
    return ""


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a file holds them."""
    return dict(json.loads(json.dumps(dict(options), default=str)))

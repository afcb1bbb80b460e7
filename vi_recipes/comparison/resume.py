"""What an earlier comparison of the same target has fitted already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vi_recipes.comparison.beside import holds_comparison
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.folder import read_header
from vi_recipes.comparison.speed import by_workers
from vi_recipes.core import Status
from vi_recipes.fit import Fit, provenance
from vi_recipes.methods import Method
from vi_recipes.model import Target, model_mark

DONE = (Status.OK, Status.UNCONVERGED, Status.COLLAPSED, Status.SINGULAR, Status.DEGENERATE)
"""How fits ended that would end so again."""


LEADS = ("Nothing was taken up", "Taken up", "Fitted again", "Left behind")
"""How the sentences begin that say what became of an earlier comparison."""


def taken_up(comparison: Comparison) -> list[str]:
    """Return what a comparison's notes say of an earlier one in its folder."""
    return [note for note in comparison.notes if note.startswith(LEADS)]


def fits_in(folder: Path) -> list[str]:
    """Return the names of the fits that a folder holds; none where it holds no comparison."""
    return list(read_header(folder)["fits"]) if holds_comparison(folder) else []


def reuse(
    folder: Path, named: Mapping[str, Method | Fit], target: Target, seed: int
) -> tuple[dict[str, Method | Fit], list[str]]:
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
        is asked for. And what was taken and what not, in sentences.
    """
    if not holds_comparison(folder):
        return dict(named), [f"Nothing was taken up: {folder} holds no earlier comparison."]
    earlier = Comparison.load(folder)
    if why := _other_target(earlier, target):
        return dict(named), [f"Nothing was taken up from the earlier comparison: {why}."]
    taken: dict[str, Fit] = {}
    anew: dict[str, str] = {}
    for name, fit in earlier.fits.items():
        if why := _of_other_versions(fit, target):
            anew[name] = why
        elif name not in named:
            taken[name] = fit
        else:
            given = named[name]
            why = "" if isinstance(given, Fit) else _why_anew(fit, given, seed)
            if why:
                anew[name] = why
            elif isinstance(given, Method):
                taken[name] = fit
    result: dict[str, Method | Fit] = {n: fit for n, fit in taken.items() if n not in named}
    result |= {name: taken.get(name, given) for name, given in named.items()}
    notes = by_workers(earlier.notes) if taken else []
    if taken:
        notes.append(
            f"Taken up from the earlier comparison, with the seconds of that time: "
            f"{', '.join(taken)}."
        )
    again = [f"{name} ({why})" for name, why in anew.items() if name in named]
    lost = [f"{name} ({why})" for name, why in anew.items() if name not in named]
    if again:
        notes.append(f"Fitted again: {', '.join(again)}.")
    if lost:
        notes.append(f"Left behind: {', '.join(lost)}.")
    return result, notes


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
    if fit.provenance.seed != seed:
        return f"its seed was {fit.provenance.seed}"
    if fit.status not in DONE:
        return f"it was {fit.status.name.lower().replace('_', ' ')}"
    return ""


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a file holds them."""
    return dict(json.loads(json.dumps(dict(options), default=str)))

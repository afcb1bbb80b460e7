"""The methods of a comparison as cells: fitted and assessed by workers, and brought back whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from vi_recipes.cells import (
    Engine,
    NotSentError,
    Place,
    fold,
    most_at_once,
    pack,
    run_cells,
    unfold,
)
from vi_recipes.comparison.notes import Note, NoteKind
from vi_recipes.comparison.one_fit import fit_one, without_result
from vi_recipes.core import Progress, ProgressFactory, Status, programs_read, silent
from vi_recipes.fit import Fit
from vi_recipes.methods import Method
from vi_recipes.model import Target


@dataclass(frozen=True)
class Made:
    """What a worker has made of a method.

    Parameters
    ----------
    content
        The fit: see :func:`vi_recipes.cells.fold`.
    interrupted
        Whether it was stopped on the way.
    read
        Programs that were read from the cache of compiled code.
    """

    content: bytes
    interrupted: bool = False
    read: int = 0


@dataclass(frozen=True)
class CompareArguments:
    """What all cells of a comparison share: the arguments of :func:`vi_recipes.compare`."""

    target: Target
    methods: Mapping[str, Method]
    seed: int
    assessed: bool

    label = "the comparison"
    shares_code = False  # the target keeps what is compiled, as in a comparison without workers

    def __call__(self, name: str, progress: Progress = silent) -> Made:
        """Fit one method; an error is a row that says so."""
        already = programs_read()
        method, target = self.methods[name], self.target
        fit, interrupted = fit_one(name, method, target, self.seed, progress, self.assessed)
        try:
            content = fold(fit, target)
        except NotSentError as error:
            why = f"it was fitted by a worker, and cannot be sent back ({error})"
            advice = "leave executor out for this method"
            content = fold(self._without(name, why, advice), target)
        return Made(content, interrupted, programs_read() - already)

    def lost(self, name: str, why: str) -> Made:
        """Return a row for a method that no worker could fit."""
        advice = "leave executor out, or give workers more memory"
        return Made(fold(self._without(name, why, advice), self.target))

    def _without(self, name: str, why: str, advice: str) -> Fit:
        method = self.methods[name]
        return without_result(
            name, method, self.target, self.seed, Status.FAILED, why, advice=advice
        )


@dataclass(frozen=True)
class Elsewhere:
    """How workers fared.

    Parameters
    ----------
    interrupted
        Whether the run was stopped.
    read
        Programs that they read from caches of compiled code.
    note
        Who fitted what, and how many at once, in a sentence or two; empty where nobody did.
    """

    interrupted: bool
    read: int
    note: str


def check_sent(methods: Mapping[str, Method]) -> None:
    """Raise a :class:`ValueError` for a method that cannot be sent to a worker."""
    for name, method in methods.items():
        try:
            pack(method)
        except NotSentError as error:
            raise ValueError(
                f"executor: method '{name}' cannot be sent to another process ({error}), or leave "
                "executor out"
            ) from None


def fit_elsewhere(
    fitting: CompareArguments,
    executor: Engine,
    *,
    exclusive: bool,
    progress: ProgressFactory | None,
    add: Callable[[str, Fit], None],
) -> Elsewhere:
    """Have workers fit methods, and every fit added as soon as it is back.

    Raises
    ------
    ValueError
        As :func:`vi_recipes.cells.run_cells` does; what is done was added.
    """
    places: dict[str, Place] = {}
    interrupted, read = False, 0
    with progress("methods") if progress else nullcontext(silent) as report:

        def keep(name: str, made: Made, place: Place) -> None:
            nonlocal interrupted, read
            add(name, unfold(made.content, fitting.target))
            places[name] = place
            interrupted, read = interrupted or made.interrupted, read + made.read
            report(len(places), len(fitting.methods), name)

        try:
            run_cells(fitting, fitting.methods, keep, executor, exclusive=exclusive)
        except KeyboardInterrupt:
            interrupted = True
    return Elsewhere(interrupted, read, _note(places))


def _note(places: Mapping[str, Place]) -> str:
    by_host: dict[str, list[str]] = {}
    for name, place in places.items():
        if place.host:
            by_host.setdefault(place.host, []).append(name)
    at_once = most_at_once(places.values())
    parts = [
        f"{', '.join(names)} on {host}, "
        + (f"up to {at_once[host]} at once" if at_once.get(host, 1) > 1 else "one at a time")
        for host, names in by_host.items()
    ]
    if not parts:
        return ""
    shared = any(number > 1 for number in at_once.values())
    honest = (
        "Methods side by side share a machine, so these seconds are not those of a fit alone "
        "(exclusive=True fits one at a time). "
        if shared
        else ""
    )
    return Note(
        f"Fitted by workers: {'; '.join(parts)}. {honest}A worker has one thread, unless its "
        "environment says otherwise.",
        NoteKind.SIDE_BY_SIDE if shared else NoteKind.BY_WORKERS,
    )

"""A scripted comparison: model, data, methods and reference in one place."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vi_recipes.cells import Engine
from vi_recipes.comparison.compare import compare
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.folder import save_exhibits
from vi_recipes.comparison.notes import Note, NoteKind
from vi_recipes.core import (
    Progress,
    check_arguments,
    instances,
    load_file,
    member,
    only,
    silent,
    warn,
)
from vi_recipes.fit import Fit, load_reference
from vi_recipes.methods import Method
from vi_recipes.model import Model, Target, load_model
from vi_recipes.report import Exhibit, style

Exhibits = Callable[[Comparison, Target, int, Progress], Iterable[Exhibit]]
"""``(comparison, target, seed, progress) -> exhibits``, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A scripted comparison, run by ``vi-recipes run`` or :meth:`run`.

    Parameters
    ----------
    name
        Short name; the default output folder carries it.
    model
        A :class:`Model`, or the name or path of one.
    data
        Keyword arguments of the model that replace its defaults.
    methods
        Name -> method; by default those that apply, but structured, forward_kl,
        svgd and pathfinder.
    reference
        Name of the method that the others are compared with (NUTS by default), or a JSON file of
        reference answers (see :func:`load_reference`).
    seed
        Seeds every method.
    description
        What to look for; stands at the head of the report.
    exhibits
        Figures and tables of the study's own, which follow the description:
        ``exhibits(comparison, target, seed, progress)`` yields them one by one when the methods are
        done. It may run simulations, seeded by ``seed`` and told of by ``progress(done, total)``.
        It draws in the report's style; :mod:`vi_recipes.report.style` has the fits' colours.
    """

    name: str
    model: Model | str | Path
    data: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Method] | None = None
    reference: str | Path | None = None
    seed: int = 0
    description: str = ""
    exhibits: Exhibits | None = None

    def target(self) -> Target:
        """Return the model conditioned on the study's data."""
        model = self.model if isinstance(self.model, Model) else load_model(str(self.model))
        return Target(model, **self.data)

    def run(
        self,
        path: str | Path | None = None,
        *,
        seed: int | None = None,
        progress: Callable[[str], AbstractContextManager[Progress]] | None = None,
        executor: Engine = None,
        exclusive: bool = True,
    ) -> Comparison:
        """Fit everything, make the exhibits, and return the comparison.

        An exhibit that fails is a warning and a note in the report; the fits stand without it.

        Parameters
        ----------
        path
            Folder for the fits, saved as they finish, and for the exhibits.
        seed
            Takes the place of the study's own.
        progress, executor, exclusive
            As in :func:`compare`. Exhibits are made here.
        """
        target = self.target()
        reference: str | Fit | None
        if isinstance(self.reference, Path):
            reference = load_reference(self.reference, target)
        else:
            reference = self.reference
        key = self.seed if seed is None else seed
        comparison = compare(
            target,
            self.methods,
            reference=reference,
            key=key,
            path=path,
            resume=False,
            progress=progress,
            description=self.description,
            executor=executor,
            exclusive=exclusive,
        )
        if self.exhibits is not None and not comparison.interrupted:
            with progress("exhibits") if progress else nullcontext(silent) as report:
                _make_exhibits(self.exhibits, comparison, target, key, report)
            if path is not None:
                save_exhibits(comparison, Path(path))
        return comparison


def _make_exhibits(
    exhibits: Exhibits, comparison: Comparison, target: Target, seed: int, progress: Progress
) -> None:
    """Add exhibits to the comparison until there are no more or one fails."""
    made = comparison.exhibits
    try:
        with style():
            for exhibit in exhibits(comparison, target, seed, progress):
                if exhibit.name in [e.name for e in made]:
                    raise ValueError(f"two exhibits are named '{exhibit.name}'")
                made.append(exhibit)
    except KeyboardInterrupt:
        comparison.interrupted = True
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        note = Note(
            f"The study's exhibits end after {len(made)}: {type(error).__name__}: {error} "
            f"(in {last.name}, line {last.lineno}).",
            NoteKind.LOST_EXHIBITS,
        )
        comparison.notes.append(note)
        warn(note)


@check_arguments("name_or_path")
def load_study(name_or_path: str | Path) -> Study:
    """Return a shipped study by name, or the study in a file of yours.

    Parameters
    ----------
    name_or_path
        A name among :func:`~vi_recipes.core.list_studies`, ``file.py`` or
        ``file.py:NAME``; without ``NAME``, ``STUDY`` is preferred, else the file must hold one
        :class:`Study` only.

    Raises
    ------
    ValueError
        As :func:`load_model` does.
    """
    module, where, name = load_file("comparisons", name_or_path)
    if name is None and not hasattr(module, "STUDY"):
        found = instances(module, Study)
        return only(found, "vi_recipes.Study", where, "define STUDY = vi_recipes.Study(...)")[1]
    name = name or "STUDY"
    study: Any = member(module, name, where, Study)
    if not isinstance(study, Study):
        raise ValueError(
            f"'{name}' in {where} is a {type(study).__name__}, expected a vi_recipes.Study"
        )
    return study

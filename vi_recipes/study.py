"""A scripted comparison: model, data, methods and reference in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vi_recipes.comparison import Comparison, compare
from vi_recipes.fit import Fit
from vi_recipes.methods import Method, default_methods
from vi_recipes.model import Model
from vi_recipes.progress import Progress
from vi_recipes.reference import load_reference
from vi_recipes.target import Target


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
        Name -> method; those that apply, by default.
    reference
        Name of the method that the others are compared with (NUTS by default), or a JSON file of
        reference answers (see :func:`load_reference`).
    seed
        Seeds every method.
    description
        What to look for; stands at the head of the report.
    """

    name: str
    model: Model | str | Path
    data: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Method] | None = None
    reference: str | Path | None = None
    seed: int = 0
    description: str = ""

    def target(self) -> Target:
        """Return the model conditioned on the study's data."""
        from vi_recipes.content import load_model

        model = self.model if isinstance(self.model, Model) else load_model(str(self.model))
        return Target(model, **self.data)

    def run(
        self,
        path: str | Path | None = None,
        *,
        seed: int | None = None,
        progress: Callable[[str], AbstractContextManager[Progress]] | None = None,
    ) -> Comparison:
        """Fit everything and return the comparison; with ``path``, fits are saved as they finish.

        Parameters
        ----------
        path
            Folder for the fits.
        seed
            Takes the place of the study's own.
        progress
            As in :func:`compare`.
        """
        target = self.target()
        reference: str | Fit | None
        if isinstance(self.reference, Path):
            reference = load_reference(self.reference, target)
        else:
            reference = self.reference
        return compare(
            target,
            dict(self.methods) if self.methods is not None else default_methods(target),
            reference=reference,
            key=self.seed if seed is None else seed,
            path=path,
            progress=progress,
            description=self.description,
        )

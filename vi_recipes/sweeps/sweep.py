"""Many fits: every model by every method at every seed, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vi_recipes.cells import Engine, Place, in_full, run_cells
from vi_recipes.comparison import named_methods
from vi_recipes.core import ProgressFactory, as_seed, check_arguments, held, require, silent
from vi_recipes.methods import Method
from vi_recipes.model import Model, Target, model_mark
from vi_recipes.sweeps.cell import CellResult, Fitting, SweepCell
from vi_recipes.sweeps.outcome import Sweep
from vi_recipes.sweeps.problem import PRIOR, Problem, Truth, problem, targets
from vi_recipes.sweeps.store import FILE, FOLDERS, Store


@check_arguments("level", "path", "assessed", "exclusive", "progress")
def sweep(
    models: str | Path | Model | Target | Sequence[Any] | Mapping[str, Any],
    methods: str | Method | Sequence[Method] | Mapping[str, Method] | None = None,
    *,
    seeds: int | Sequence[int] = 10,
    data: Mapping[str, Any] | str | Path | None = None,
    truth: Truth = None,
    level: float = 0.9,
    assessed: bool = True,
    executor: Engine = None,
    exclusive: bool = False,
    path: str | Path | None = None,
    progress: ProgressFactory | None = None,
) -> Sweep:
    """Fit every model by every method at every seed, and return one tidy frame with summaries.

    With ``truth`` it is a simulation study: each seed has data of its own, the same for all
    methods. Without, a seed is the method's own, and all fits are to the same data.

    Parameters
    ----------
    models
        Names or files of models, models, functions or targets; or a mapping name -> one of them.
    methods
        As in :func:`compare`: names, methods, or a mapping; ``None`` takes those that apply.
    seeds
        How many, from 0; or which.
    data
        A mapping name -> arguments of the models, or a file of them, each fitted in turn; or one
        file. ``None`` takes the models' own. Files are read where cells run.
    truth
        ``"prior"`` draws parameters from the prior at every seed, and data from the model; a
        mapping site -> value fixes these and draws the other latent sites. The data then say how
        many observations there are and what the covariates are.
    level
        Of the central intervals.
    assessed
        Whether approximations weigh draws of their own by the posterior's density, for their
        verdicts, outside their seconds.
    executor
        Where fits run; see :func:`calibrate`.
    exclusive
        Whether one cell runs at a time, so that seconds are those of a machine with one fit on it;
        of a number of processes, one is begun.
    path
        Folder that keeps every fit's numbers as soon as it is done; what is there is not fitted
        again. More seeds, methods and models may be added.
    progress
        As in :func:`compare`.

    Returns
    -------
    Sweep

    Raises
    ------
    ValueError
        For models, methods, data or a truth that do not go together, and a folder of another sweep.
        All of this is found before the first fit.

    References
    ----------
    Morris, T. P., White, I. R. and Crowther, M. J. (2019). Using simulation studies to evaluate
    statistical methods. Statistics in Medicine 38, 2074-2102, doi:10.1002/sim.8086.
    """
    numbers = _seeds(seeds)
    require(0 < level < 1, "level", level, "a probability between 0 and 1")
    if not (truth is None or truth == PRIOR or isinstance(truth, Mapping)):
        raise ValueError(
            f"truth: got {truth!r}, expected 'prior', a mapping site -> value, or None"
        )
    problems: dict[tuple[str, str], Problem] = {}
    for name, (target, file, shipped) in targets(models, data).items():
        named = named_methods(methods, target)
        chosen = {label: m for label, m in named.items() if isinstance(m, Method)}
        if len(chosen) < len(named):
            raise ValueError("methods: got a fit, expected methods: every cell is fitted anew")
        for label, method in chosen.items():
            try:
                method.check(target)
            except ValueError as error:
                raise ValueError(f"method '{label}': {error}") from error
        problems[name] = problem(target, chosen, truth, file, shipped)
    cells = [
        SweepCell(*name, label, seed)
        for name, one in problems.items()
        for seed in numbers
        for label in one.methods
    ]
    with held(path, FILE, FOLDERS):
        store = Store(
            None if path is None else Path(path),
            {"level": level, "truth": _in_words(truth), "assessed": assessed},
            _parts(problems, numbers),
        )
        todo = [cell for cell in cells if not store.read(cell)]
        interrupted = False
        with progress("sweep") if progress else nullcontext(silent) as report:

            def keep(cell: SweepCell, result: CellResult, place: Place) -> None:
                store.add(cell, replace(result, **asdict(place)))
                report(len(store.results), len(cells), str(cell))

            try:
                fitting = Fitting(problems, level, assessed)
                run_cells(fitting, todo, keep, executor, exclusive=exclusive)
            except KeyboardInterrupt:
                interrupted = True  # what is done is kept
    return Sweep(
        results={cell: store.results[cell] for cell in cells if cell in store.results},
        level=level,
        truth=_in_words(truth),
        num_cells=len(cells),
        interrupted=interrupted,
    )


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        require(int(seeds) >= 1, "seeds", seeds, "a positive number of seeds, or a list of them")
        return list(range(int(seeds)))
    try:
        numbers = [as_seed(seed) for seed in seeds]
    except (TypeError, ValueError):
        raise ValueError(
            f"seeds: got {seeds!r}, expected a positive number of seeds, or a list of them"
        ) from None
    require(
        bool(numbers) and len(set(numbers)) == len(numbers),
        "seeds",
        seeds,
        "different whole numbers",
    )
    return numbers


def _in_words(truth: Truth) -> Any:
    if isinstance(truth, Mapping):
        return {name: np.asarray(value, float).tolist() for name, value in truth.items()}
    return truth


def _parts(problems: Mapping[tuple[str, str], Problem], numbers: Sequence[int]) -> dict[str, str]:
    """Return what cells of one name must have in common, in words."""
    parts = {}
    for (model, data), one in problems.items():
        about = f"{one.target.name} ({model_mark(one.target)}), data {one.target.fingerprint}"
        if one.predictive is not None:  # a mark of prior and likelihood
            about += f", first simulated {one.at(0)[0].fingerprint}"
        parts[f"model '{model}' ({data})"] = about
        for label, method in one.methods.items():
            parts[f"method '{label}' on '{model}' ({data})"] = in_full(method)
    return parts

"""What is fitted in a sweep: a model with its data, or with data simulated for every seed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from vi_recipes.calibration import PriorPredictive
from vi_recipes.core import attempt, called, find
from vi_recipes.data import read_data
from vi_recipes.fit import load_reference
from vi_recipes.methods import Method
from vi_recipes.model import Model, Target, load_model

Truth = Literal["prior"] | Mapping[str, Any] | None
"""What data are simulated from: parameters drawn from the prior or given; ``None`` for no data."""

PRIOR = "prior"
OWN = "own"
"""Name of the data that a model or a target brings along."""

Known = dict[str, tuple[float, float]]
"""Label -> what its mean should be and the sd that goes with it, NaN where that is unknown."""


@dataclass(frozen=True)
class Problem:
    """A model, its data, and what the parameters should come to.

    Parameters
    ----------
    target
        The model conditioned on data, whose observations are replaced where data are simulated.
    methods
        Name -> method, with the options that suit this model.
    truth
        What data are simulated from.
    predictive
        Simulates them; ``None`` where the target's own data are fitted.
    reference
        What is known of the posterior for the target's own data.
    path
        The file that its data come from, read where cells run; ``None`` for data that are sent.
    """

    target: Target
    methods: Mapping[str, Method]
    truth: Truth = None
    predictive: PriorPredictive | None = None
    reference: Mapping[str, tuple[float, float]] | None = None
    path: Path | None = None

    def __reduce__(self) -> Any:
        what = dict(self.methods), self.truth, self.reference
        if self.path is None:
            return _made, (self.target, *what, None)
        model, mark = self.target.complete_model, self.target.fingerprint
        return _read, (model, mark, *what, str(self.path))

    def at(self, seed: int) -> tuple[Target, Known]:
        """Return what is fitted at a seed, and what is known of its parameters.

        Raises
        ------
        ValueError
            Where the data that are simulated cannot be fitted.
        """
        if self.predictive is None:
            return self.target, dict(self.reference or {})
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"data"))
        given = dict(self.truth) if isinstance(self.truth, Mapping) else None
        drawn = self.predictive.draw(key, given)
        labels = drawn.target.labels(coords=True)
        flat = [np.ravel(drawn.truth[s.name]) for s in drawn.target.quantities]
        values = np.concatenate(flat).astype(float)
        return drawn.target, {
            label: (float(value), float("nan")) for label, value in zip(labels, values, strict=True)
        }


def _read(
    model: Model,
    fingerprint: str,
    methods: Mapping[str, Method],
    truth: Truth,
    reference: Mapping[str, tuple[float, float]] | None,
    path: str,
) -> Problem:
    """Return a problem whose data are read where it was sent."""
    target = Target(model, **read_for(model, Path(path)))
    if target.fingerprint != fingerprint:
        raise ValueError(
            f"data: {path} has other content where a cell runs than where the sweep was begun; "
            "give data by value, or the same file"
        )
    return _made(target, methods, truth, reference, Path(path))


def _made(
    target: Target,
    methods: Mapping[str, Method],
    truth: Truth,
    reference: Mapping[str, tuple[float, float]] | None,
    path: Path | None,
) -> Problem:
    if truth is None:
        return Problem(target, methods, None, None, reference, path)
    predictive = PriorPredictive(target)
    if isinstance(truth, Mapping):
        truth = predictive.checked(truth)
    return Problem(target, methods, truth, predictive, None, path)


def read_for(model: Model, path: Path) -> Mapping[str, Any]:
    """Return a model's arguments from a file, by the model's own reader where it has one.

    Raises
    ------
    ValueError
        For a file that cannot be read here.
    """
    if not path.is_file():
        raise ValueError(f"data: {path} cannot be read: there is no such file where this cell runs")
    if model.load is not None:
        return dict(called(f"load of model '{model.name}'", model.load, path))
    return read_data(path)


def problem(
    target: Target, methods: Mapping[str, Method], truth: Truth, path: Path | None, shipped: str
) -> Problem:
    """Return what is fitted of a target, with reference answers if it is a shipped model's own.

    Raises
    ------
    ValueError
        For a model that cannot be simulated from, and a truth that it does not have.
    """
    reference = None if truth is not None or not shipped else _answers(shipped, target)
    return _made(target, methods, truth, reference, path)


def _answers(name: str, target: Target) -> Known | None:
    """Return reference answers that ship with a model, for the data that it ships with."""
    answers = find("models")[name].with_name("reference.json")
    if not answers.is_file():
        return None
    content = json.loads(answers.read_text(encoding="utf-8"))
    if not content.get("parameters"):
        return None
    fit = attempt(lambda: load_reference(content, target), lambda _: None)
    if fit is None:  # answers for other data
        return None
    means, sds = fit.flat(fit.mean()), fit.flat(fit.sd())
    return {
        label: (float(m), float(s))
        for label, m, s in zip(fit.labels(), means, sds, strict=True)
        if np.isfinite(m)
    }


def targets(
    models: Any, data: Mapping[str, Any] | str | Path | None
) -> dict[tuple[str, str], tuple[Target, Path | None, str]]:
    """Return (model, data) -> target, the file of its data, and its name if it is shipped.

    Raises
    ------
    ValueError
        For models that are none, and two of one name.
    """
    by_model: dict[tuple[str, str], tuple[Target, Path | None, str]] = {}
    for name, one in _by_name(models):
        if isinstance(one, Target):
            if data is not None:
                raise ValueError(f"data: got {data!r} for '{name}', a target that has data already")
            _add(by_model, (name or one.name, OWN), (one, None, ""))
            continue
        model = one
        if isinstance(one, str | Path):
            model = load_model(one)
        elif not isinstance(one, Model):
            if not callable(one):
                raise ValueError(
                    f"models: got {one!r}, expected names or files of models, models or targets"
                )
            model = Model(function=one, name=getattr(one, "__name__", "model"))
        shipped = str(one) if isinstance(one, str) and one in find("models") else ""
        for label, given in _data_by_name(data):
            path = Path(given) if isinstance(given, str | Path) else None
            arguments = read_for(model, path) if path is not None else dict(given or {})
            target = Target(model, **arguments)
            own = shipped if given is None else ""
            # workers may have begun in another folder
            file = None if path is None else path.absolute()
            _add(by_model, (name or model.name, label), (target, file, own))
    if not by_model:
        raise ValueError("models: got none, expected at least one, such as 'eight_schools'")
    return by_model


def _add(found: dict[Any, Any], key: tuple[str, str], what: Any) -> None:
    if key in found:
        raise ValueError(
            f"models: two are named '{key[0]}'; give each once, or names of their own (in Python, "
            "a mapping name -> model)"
        )
    found[key] = what


def _by_name(models: Any) -> list[tuple[str, Any]]:
    if isinstance(models, Mapping):
        return [(str(name), one) for name, one in models.items()]
    if isinstance(models, str | Path | Model | Target) or not isinstance(models, Iterable):
        models = [models]
    return [("", one) for one in models]


def _data_by_name(data: Mapping[str, Any] | str | Path | None) -> list[tuple[str, Any]]:
    if data is None:
        return [(OWN, None)]
    if isinstance(data, str | Path):
        return [(Path(data).stem, data)]
    if not isinstance(data, Mapping):
        raise ValueError(
            f"data: got {type(data).__name__}, expected a mapping name of the data -> arguments of "
            "the model, or a file"
        )
    if not data:
        raise ValueError(
            "data: got none, expected at least one set, by name; leave data out for the models' own"
        )
    for name, given in data.items():
        if not isinstance(given, Mapping | str | Path):
            raise ValueError(
                f"data: got {type(given).__name__} for '{name}', expected a mapping name of the "
                "data -> arguments of the model, or a file"
            )
    return list(data.items())

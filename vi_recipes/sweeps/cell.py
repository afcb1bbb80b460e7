"""One cell of a sweep: a model, its data, a method and a seed, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from vi_recipes.core import ModelError, Progress, Status, seed_of, silent, told
from vi_recipes.fit import Fit
from vi_recipes.methods import Method
from vi_recipes.model import Target
from vi_recipes.posterior import DrawsPosterior
from vi_recipes.sweeps.problem import Problem
from vi_recipes.trust import assess, judge

NUM_DRAWS = 4_000
"""Draws of an approximation that its intervals are read off."""


class SweepCell(NamedTuple):
    """Which fit of a sweep: names of the model, of its data and of the method, and the seed."""

    model: str
    data: str
    method: str
    seed: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.method} on {self.model} ({self.data}), seed {self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What one fit came to; every list has an entry a scalar.

    Parameters
    ----------
    status, message
        How the fit ended.
    trust, verdict
        What it says of itself.
    seconds, compile_seconds, assess_seconds
        Of the fit, the part of it that went into compilation, and of its assessment.
    labels, mean, sd
        Scalars, on the model's own scale; an sd is NaN where the method has none.
    low, high
        Ends of the central interval.
    known, known_sd
        What the mean should be, and the sd of the reference answers; NaN where that is unknown.
    host, process
        Where it was fitted.
    began, ended
        When, by that machine's clock, in seconds.
    """

    status: str
    message: str = ""
    trust: str = ""
    verdict: str = ""
    seconds: float = float("nan")
    compile_seconds: float = float("nan")
    assess_seconds: float = float("nan")
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    known: tuple[float, ...] = ()
    known_sd: tuple[float, ...] = ()
    host: str = ""
    process: int = 0
    began: float = float("nan")
    ended: float = float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return it as what strict JSON can hold."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> CellResult:
        """Return what :meth:`to_json` has written."""
        values: dict[str, Any] = {
            name: tuple(map(_number, value))
            if isinstance(value, list)
            else (_number(value) if value is None else value)
            for name, value in known.items()
        }
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def _number(value: Any) -> Any:
    if value is None:
        return float("nan")
    return float(value) if value in ("inf", "-inf") else value


@dataclass(frozen=True)
class Fitting:
    """What all cells of a sweep share.

    Parameters
    ----------
    problems
        (model, data) -> what is fitted.
    level
        Of the intervals.
    assessed
        Whether fits weigh their own draws.
    """

    problems: Mapping[tuple[str, str], Problem]
    level: float
    assessed: bool

    label = "the sweep"
    shares_code = True

    def __call__(self, cell: SweepCell, progress: Progress = silent) -> CellResult:
        """Fit one cell; an error is a result that says so."""
        cell = SweepCell(*cell)
        problem = self.problems[cell.model, cell.data]
        method = problem.methods[cell.method]
        stream = seed_of(cell.method, cell.seed)  # as in a comparison
        try:
            target, known = problem.at(cell.seed)
            begun = seed_of(method.stream(cell.method), cell.seed)
            fit = method.fit(target, key=begun, progress=progress, name=cell.method)
            if fit.status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            if self.assessed and fit.has_result:
                fit = replace(fit, assessment=assess(fit, target, key=stream))
            return self._read(fit, target, method, known, stream)
        except (ModelError, ValueError) as error:
            return CellResult(Status.FAILED.name, str(error))
        except Exception as error:  # the other cells stand without it
            return CellResult(Status.FAILED.name, told(error))

    def lost(self, cell: SweepCell, why: str) -> CellResult:
        """Return a fit that nobody could do."""
        return CellResult(Status.FAILED.name, why)

    def _read(
        self,
        fit: Fit,
        target: Target,
        method: Method,
        known: Mapping[str, tuple[float, float]],
        stream: int,
    ) -> CellResult:
        said = judge(fit)
        result = CellResult(
            status=fit.status.name,
            message=fit.message,
            trust=said.trust.value,
            verdict=said.text,
            seconds=fit.timing.total_seconds,
            compile_seconds=fit.timing.compile_seconds,
            assess_seconds=fit.assessment.seconds if fit.assessment else float("nan"),
        )
        if not fit.has_result:
            return result
        labels = fit.labels()
        none = (float("nan"), float("nan"))
        low, high = self._interval(fit, stream)
        return replace(
            result,
            labels=tuple(labels),
            mean=_floats(fit.flat(fit.mean())),
            sd=_floats(fit.flat(fit.sd())),
            low=low,
            high=high,
            known=tuple(known.get(label, none)[0] for label in labels),
            known_sd=tuple(known.get(label, none)[1] for label in labels),
        )

    def _interval(self, fit: Fit, stream: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the ends of the central interval, by draws; NaN where there are none."""
        sd = np.asarray(fit.flat(fit.sd()), float)
        nothing = _floats(np.full(len(sd), np.nan))
        if np.isnan(sd).all():
            return nothing, nothing
        posterior = fit.posterior
        try:
            if fit.is_sampler and isinstance(posterior, DrawsPosterior):
                draws = {n: v.reshape(-1, *v.shape[2:]) for n, v in posterior.samples.items()}
            else:
                draws = fit.draws(NUM_DRAWS, jax.random.key(stream))
        except ValueError:
            return nothing, nothing
        number = len(next(iter(draws.values())))
        rows = np.concatenate(
            [np.asarray(draws[s.name], float).reshape(number, -1) for s in fit.sites], axis=1
        )
        tail = (1 - self.level) / 2
        low, high = np.quantile(rows, [tail, 1 - tail], axis=0)
        without = np.isnan(sd)  # a point within a distribution covers nothing
        return _floats(np.where(without, np.nan, low)), _floats(np.where(without, np.nan, high))


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values))

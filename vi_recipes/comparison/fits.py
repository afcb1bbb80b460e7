"""Several fits of one target, side by side."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from vi_recipes.comparison.constants import constants_in
from vi_recipes.comparison.found import Found
from vi_recipes.comparison.kept import KeptFit
from vi_recipes.comparison.left import MethodsLeft
from vi_recipes.comparison.medians import quantile_table, told, unsettled_in, with_medians
from vi_recipes.comparison.optima import shortfalls
from vi_recipes.comparison.speed import timings
from vi_recipes.comparison.verdicts import diagnostics_table, verdict_table
from vi_recipes.core import MadeOnce, as_names, attempt, unknown
from vi_recipes.fit import COLUMNS, MAX_STORED_COV, Fit, differences, moments_of, unsettled
from vi_recipes.importance import LogEvidence
from vi_recipes.report import Exhibit
from vi_recipes.trust import (
    Overlooked,
    Trust,
    Verdict,
    audit,
    elsewhere,
    evidence_table,
    unfit,
    verdict,
)


class Fits(Mapping[str, Fit]):
    """An ordered mapping name -> :class:`Fit`, with a reference and tables over all fits.

    Every mean, sd and covariance is on the constrained scale. A fit without a result is NaN in
    every table. Each table is made once, and handed out as a copy; the fits, the reference and the
    quadrature that they come from cannot be replaced.

    Parameters
    ----------
    fits
        Name -> fit, in the order of the tables.
    reference
        What the others are measured against; ``None`` for no reference.
    reference_name
        Its name.
    target_name
        Name of the model.
    notes
        What a reader of the report must know: scales, label alignment.
    interrupted
        Whether the comparison was cut short.
    left
        What it was to fit, and has no fit of.
    description
        Stands at the head of the report.
    rows_left_out
        How many rows of the data the model does without, because values are missing.
    exhibits
        Figures and tables of a study's own, which follow it.
    quadrature
        log p(y) by quadrature, or why it cannot be had; ``None`` where nobody asked.
    found
        What was found out of fits once all were done.
    """

    def __init__(
        self,
        fits: Mapping[str, Fit],
        *,
        reference: Fit | None = None,
        reference_name: str | None = None,
        target_name: str = "",
        notes: Sequence[str] = (),
        interrupted: bool = False,
        left: MethodsLeft | None = None,
        description: str = "",
        rows_left_out: int = 0,
        exhibits: Sequence[Exhibit] = (),
        quadrature: LogEvidence | None = None,
        found: Found | None = None,
    ) -> None:
        self._fits = dict(fits)
        self._reference = reference
        self._reference_name = reference_name
        self._quadrature = quadrature
        self._found = found or Found()
        self._made = MadeOnce()
        self.kept: dict[str, KeptFit] = {}
        self.target_name = target_name
        self.notes = list(notes)
        self.losses: list[str] = []
        """What an error left out of the tables, reports or files so far, a sentence each."""
        self.interrupted = interrupted
        self.left = (left or MethodsLeft()).without(fits)
        self.description = description
        self.rows_left_out = rows_left_out
        self.exhibits = list(exhibits)
        self.model_mark = ""
        """What tells the model from a changed one (:func:`vi_recipes.model.model_mark`)."""

    @property
    def fits(self) -> Mapping[str, Fit]:
        """Name -> fit, in the order of the tables."""
        return MappingProxyType(self._fits)

    @property
    def reference(self) -> Fit | None:
        """What the others are measured against."""
        return self._reference

    @property
    def reference_name(self) -> str | None:
        """The reference's name."""
        return self._reference_name

    @property
    def quadrature(self) -> LogEvidence | None:
        """Log p(y) by quadrature, or why it cannot be had."""
        return self._quadrature

    def once[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` makes of the fits, made when ``key`` is first asked for."""
        return self._made(key, make)

    def lose(self, sentence: str) -> None:
        """Take note of what an error left out."""
        if sentence not in self.losses:
            self.losses.append(sentence)

    @property
    def remarks(self) -> list[str]:
        """Notes, what has no fit, what errors left out or none could tell."""
        untold = [
            f"{name}: {what} is not known: {why}"
            for name, fit in self._fits.items()
            if fit.assessment is not None
            for what, why in fit.assessment.errors.items()
        ]
        return [
            *self.notes,
            *self.left.said(),
            *(line for line in untold if line not in self.notes),
            *self.losses,
        ]

    def _frame(self, key: Hashable, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return self.once(key, make).copy()  # an edit of one changes none that follow

    def __getitem__(self, name: str) -> Fit:
        if name not in self._fits:
            raise KeyError(unknown("fit", str(name), self._fits))
        return self._fits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fits)

    def __len__(self) -> int:
        return len(self._fits)

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the reference itself, and which fits ended below others."""
        reference, found = self._reference, self.overlooked
        said: list[str] = []
        if reference is not None:
            said += attempt(
                lambda: audit(reference, found),
                lambda e: [f"The reference could not be audited: {e}"],
            )
        return said + [f"{name}: {sentence}." for name, sentence in self._below().items()]

    @property
    def overlooked(self) -> Mapping[str, Overlooked]:
        """Name of a fit -> what that has found where the reference has no draws."""
        return MappingProxyType(dict(self._found.overlooked))

    @property
    def found(self) -> Found:
        """What was found out of fits once all were done."""
        return self._found

    def _below(self) -> dict[str, str]:
        """Return the fits that ended below others of their kind, with a sentence on each."""

        def find() -> dict[str, str]:
            lost = "Optima of one kind are not compared"
            return self._part(lost, lambda: dict(shortfalls(self._fits))) or {}

        return self.once("shortfalls", find)

    @property
    def measures(self) -> bool:
        """Whether there is a reference that others can be measured by."""
        reference = self._reference
        found = self.overlooked
        return reference is not None and self.once("unfit", lambda: unfit(reference, found)) == ""

    @property
    def columns(self) -> dict[str, Fit]:
        """Name -> fit: the fits, and last the reference when it is not one of them."""
        columns = dict(self._fits)
        if self._reference is not None and self._reference_name not in columns:
            columns[self._reference_name or "reference"] = self._reference
        return columns

    @property
    def unsettled(self) -> dict[str, float]:
        """Label -> khat of scalars whose mean or sd does not exist, or is not told by a fit."""
        find = partial(self._part, "Tails are not looked at", partial(unsettled_in, self.columns))
        return dict(self.once("unsettled", lambda: find() or {}))

    def quantiles(self) -> pd.DataFrame:
        """Return quantiles of the scalars that have no mean or sd to speak of, by what a fit knows.

        Rows ``(parameter, method)``; columns ``5 %``, ``50 %`` and ``95 %``, and ``khat``, the
        largest of those that say so. In the tables of moments a sampler has NaN there.
        """
        return self._frame("quantiles", lambda: quantile_table(self.columns, self.unsettled))

    def _table(
        self, key: str, sites: Sequence[str] | None, what: Callable[[Fit], Mapping[str, np.ndarray]]
    ) -> pd.DataFrame:
        def column(name: str, fit: Fit) -> Any:
            def without(error: str) -> Any:
                self.lose(f"{name} has no {_WORDS[key]} in the tables: {error}")
                return np.nan

            return attempt(lambda: fit.flat(what(fit), sites), without)

        def make() -> pd.DataFrame:
            index = next(iter(self.columns.values())).labels(sites)
            return pd.DataFrame(
                {
                    name: told(fit, column(name, fit), index) if fit.has_result else np.nan
                    for name, fit in self.columns.items()
                },
                index=index,
                dtype=float,
            )

        return self._frame((key, _names(sites)), make)

    def means(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the means (for a point, the point), a row a scalar and a column a fit.

        Of an approximation they are its own, whether or not the posterior has any. NaN where a
        sampler's draws say that there is no mean or sd (see :meth:`quantiles`).
        """
        return self._table("means", sites, Fit.mean)

    def centres(self) -> pd.DataFrame:
        """Return the means, and of scalars without mean or sd the medians in their places."""
        return self._frame("centres", lambda: with_medians(self.columns, self.unsettled, "mean"))

    def spreads(self) -> pd.DataFrame:
        """Return the sds, and of scalars without mean or sd half of what the central 68 % span."""
        return self._frame("spreads", lambda: with_medians(self.columns, self.unsettled, "sd"))

    def sds(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the standard deviations, a row a scalar and a column a fit."""
        return self._table("sds", sites, Fit.sd)

    def mcses(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Monte Carlo standard errors of the means."""
        return self._table("mcses", sites, Fit.mcse)

    def mcses_sd(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Monte Carlo standard errors of the standard deviations."""
        return self._table("mcses_sd", sites, Fit.mcse_sd)

    def constants(self) -> list[str]:
        """Return the labels of the scalars that vary in no fit, up to rounding.

        Such as the first diagonal element of a Cholesky factor of correlations. What is made of
        their sds is noise, so tables name them as constant and figures leave them out. Scalars of
        which no fit has an sd are not among them.
        """
        return list(self.once("constants", lambda: constants_in(self.columns)))

    def covariances(self, sites: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Return name -> joint covariance of ``sites``, for the fits that have one.

        Raises
        ------
        ValueError
            For more than 200 scalars: name fewer sites.
        """
        tables = self.once(("covariances", _names(sites)), lambda: self._make_covariances(sites))
        return {name: table.copy() for name, table in tables.items()}

    def _make_covariances(self, sites: Sequence[str] | None) -> dict[str, pd.DataFrame]:
        first = next(iter(self.columns.values()))
        size = len(first.labels(sites))
        if size > MAX_STORED_COV:
            raise ValueError(
                f"sites: {size} scalars have a covariance of {size} x {size}; "
                f"name sites of at most {MAX_STORED_COV} in all"
            )
        tables = {}
        for name, fit in self.columns.items():
            if fit.has_result:
                table = self._part(f"{name} has no covariance", partial(fit.cov, sites))
                if table is not None and not table.isna().all(axis=None):
                    gone = table.index.isin(list(unsettled(fit)))
                    tables[name] = table.mask(np.logical_or.outer(gone, gone))
        return tables

    def _part[T](self, lost: str, make: Callable[[], T]) -> T | None:
        """Return a part of a table; ``None``, with a note that says what is lost, on an error."""
        return attempt(make, lambda error: self.lose(f"{lost}: {error}"))

    def correlations(self, sites: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Return name -> correlation matrix of ``sites`` (see :meth:`covariances`)."""

        def make() -> dict[str, pd.DataFrame]:
            result = {}
            for name, cov in self.covariances(sites).items():
                sd = np.sqrt(np.diag(cov))
                sd[cov.index.isin(self.constants())] = np.nan
                with np.errstate(invalid="ignore", divide="ignore"):
                    result[name] = cov.div(sd, axis=0).div(sd, axis=1)
            return result

        tables = self.once(("correlations", _names(sites)), make)
        return {name: table.copy() for name, table in tables.items()}

    def timings(self) -> pd.DataFrame:
        """Return seconds, speed-ups over the reference and evaluation counts, a row a fit.

        A reference from outside has a row where its seconds are known; stored answers have a total.
        """
        return self._frame("timings", lambda: timings(self._fits, self._reference, self.outside))

    @property
    def outside(self) -> str:
        """Name of a reference that is not one of the fits; empty where there is none."""
        name = self._reference_name or "reference"
        return "" if self._reference is None or name in self._fits else name

    def diagnostics(self) -> pd.DataFrame:
        """Return status, message, evidence and every diagnostic, a row a fit."""
        return self._frame("diagnostics", lambda: diagnostics_table(self._fits))

    def accuracy(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the differences from the reference, a row a scalar and method.

        Columns as :func:`vi_recipes.fit.differences` returns them: ``difference`` (of means, in
        reference sds), ``sd_ratio`` (method over reference), and the Monte Carlo errors of both
        together and of the reference alone, which is all that verdicts forgive.
        Where a fit says that there is no mean or sd, medians and half-widths of the central 68 %
        are compared. Without a reference the table is empty.
        """
        return self._frame(("accuracy", _names(sites)), lambda: self._make_accuracy(sites))

    def _make_accuracy(self, sites: Sequence[str] | None) -> pd.DataFrame:
        frames = {}
        if self._reference is not None and self._reference.has_result:
            reference = moments_of(self._reference, self.unsettled)
            for name, fit in self._fits.items():
                if name != self._reference_name and fit.has_result:
                    lost = f"{name} is not compared with the reference"
                    rows = self._part(lost, partial(differences, fit, reference, sites))
                    if rows is not None:
                        frames[name] = rows
        if not frames:
            index = pd.MultiIndex.from_arrays([[], []], names=["parameter", "method"])
            return pd.DataFrame(columns=COLUMNS, index=index)
        joined = pd.concat(frames, names=["method", "parameter"]).swaplevel()
        order = [(p, m) for p in next(iter(frames.values())).index for m in frames]
        return joined.loc[order]

    def evidence(self) -> pd.DataFrame:
        """Return all bounds on log p(y) and estimates of it, a row each.

        Those of every fit's assessment, and that by quadrature where :func:`compare` was asked for
        it. Columns as :func:`vi_recipes.trust.evidence.evidence_table` returns them.
        """
        return self._frame("evidence", self._make_evidence)

    def _make_evidence(self) -> pd.DataFrame:
        known: dict[str, Sequence[LogEvidence]] = {}
        for name, fit in self.columns.items():
            if fit.has_result and fit.assessment is not None:
                known[name] = fit.assessment.evidence
            elif fit.has_result and fit.log_evidence is not None:
                known[name] = [fit.log_evidence]
        if self.quadrature is not None:
            known["quadrature"] = [self.quadrature]
        return evidence_table(known)

    def verdicts(self) -> pd.DataFrame:
        """Return how far each fit can be trusted, as :func:`verdict_table` has it."""
        return self._frame("verdicts", lambda: verdict_table(self.verdict_of))

    @property
    def verdict_of(self) -> Mapping[str, Verdict]:
        """Name -> how far the fit can be trusted, with the evidence and in words.

        By the reference where there is one that others can be measured by, else by the fit's own
        evidence.
        """

        def judged(name: str, fit: Fit) -> Verdict:
            def judge() -> Verdict:
                return verdict(
                    fit,
                    self.accuracy(),
                    reference=self._reference,
                    is_reference=name == self._reference_name,
                    unsettled=self.unsettled,
                    found=self.overlooked,
                    bounds=self._found.lower_bounds.get(name),
                )

            return attempt(judge, lambda e: Verdict(Trust.UNKNOWN, f"Cannot be told: {e}."))

        def make() -> dict[str, Verdict]:
            verdicts = {name: judged(name, fit) for name, fit in self._fits.items()}
            verdicts |= {name: verdicts[name].held(why) for name, why in self._below().items()}
            if self.measures or self.overlooked:
                return verdicts
            lost = "Fits are not compared with one another"
            return verdicts | (self._part(lost, partial(elsewhere, self._fits)) or {})

        return MappingProxyType(self.once("verdict of", make))


_WORDS = {"means": "means", "sds": "sds", "mcses": "errors of means", "mcses_sd": "errors of sds"}
"""Key of a table -> what is in it."""


def _names(sites: Sequence[str] | None) -> Hashable:
    """Return what tells one choice of sites from another."""
    return None if sites is None else tuple(as_names("sites", sites))

"""Several fits of one target with their tables, reports and folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from vi_recipes.comparison.checked import check_alike
from vi_recipes.comparison.edit import added, measured_by, without
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.folder import load_fit, read_header, save_all, write
from vi_recipes.comparison.found import Found
from vi_recipes.comparison.glance import as_html, as_text
from vi_recipes.comparison.kept import KeptFit
from vi_recipes.comparison.labels import Relabelling
from vi_recipes.comparison.left import MethodsLeft
from vi_recipes.comparison.notes import model_notes, notes_from_json
from vi_recipes.comparison.published import publish, tidy
from vi_recipes.comparison.recommend import Recommendation, recommend
from vi_recipes.comparison.validated import cross_validated
from vi_recipes.core import attempt, check_arguments
from vi_recipes.fit import Fit
from vi_recipes.importance import LogEvidence
from vi_recipes.model import Model, Target, as_target, model_mark
from vi_recipes.report import FOLDER, PublishedTable, read_exhibit
from vi_recipes.trust import unfit


class Comparison(Fits):
    """Several fits of one target: their tables, with reports, a folder and cross-validation.

    Parameters, and the tables it has, are those of :class:`Fits`.
    """

    @check_arguments("observed", "correct")
    def loo(
        self,
        target: Target | Model,
        *,
        observed: str | None = None,
        num_draws: int | None = None,
        correct: bool = True,
    ) -> pd.DataFrame:
        """Return leave-one-out cross-validation, a row a fit (see :func:`vi_recipes.loo`).

        All of them estimate the posterior's own predictive density, each with its own draws: what
        they differ by is the error of the approximations, and where k is high it shows.

        Parameters
        ----------
        target
            What the fits are of.
        observed, num_draws, correct
            As in :func:`vi_recipes.loo`.

        Returns
        -------
        pandas.DataFrame
            ``elpd_loo`` with its standard error ``se``, in nats; ``p_loo``; ``elpd_diff``, the
            difference from the reference or, where that has none, from the highest, with its
            standard error ``dse``; ``max_k``, the largest Pareto k, and ``num_high_k``, how many
            exceed ``good_k``, the limit for that ``num_draws``. A fit without has NaN and its
            ``reason``.

        Raises
        ------
        ValueError
            For a target that is not that of the fits, or a site that is not observed.
        """
        return cross_validated(
            self,
            as_target(target) if isinstance(target, Model) else target,
            observed=observed,
            num_draws=num_draws,
            correct=correct,
        )

    def recommend(self) -> Recommendation:
        """Return which method to use, its seconds, what it gets wrong, and the others.

        The cheapest trustworthy one; where none is, the best of those that are usable with care,
        and for what; where none is that either, none, and what would tell. ``str`` of it is one
        line, the first of every report.

        Examples
        --------
        >>> c = vr.compare(target, "map,laplace")
        >>> best = c.recommend()
        >>> best.method
        'laplace'
        >>> fit = c[best.method]
        """
        return recommend(self)

    @check_arguments("fit", "name", "target")
    def add(self, fit: Fit, name: str | None = None, *, target: Target | None = None) -> Comparison:
        """Return the comparison with one more fit, such as draws made elsewhere.

        Parameters
        ----------
        fit
            A fit of the same target; one of the same name is replaced.
        name
            What it is called here; its own name by default.
        target
            What the fits are of. With it the fit is weighed by the posterior's density, if it was
            not yet, and its exchangeable components are put in the order of the others.

        Raises
        ------
        ValueError
            For a fit of another model or of other data.
        """
        return added(self, fit, name, target)

    @check_arguments("name")
    def drop(self, name: str) -> Comparison:
        """Return the comparison without one of its fits.

        Raises
        ------
        ValueError
            For a fit that is not there, and for the only one.
        """
        return without(self, name)

    @check_arguments("reference")
    def with_reference(self, reference: str | Fit | None) -> Comparison:
        """Return the comparison measured against another of its fits, another fit, or none.

        Raises
        ------
        ValueError
            For a fit that is not there, has no result, or is a point.
        """
        return measured_by(self, reference)

    @check_arguments("sites", "members")
    def tidy(
        self,
        sites: Sequence[str] | None = None,
        *,
        members: bool = False,
        conf_level: float | None = None,
    ) -> pd.DataFrame:
        """Return a row a method and scalar, with the names that the R package broom uses.

        Parameters
        ----------
        sites
            Which; by default the parameters of the population.
        members
            Whether those of the members of groups follow, where no sites are named.
        conf_level
            Of the intervals; by default what ArviZ is set to.

        Returns
        -------
        pandas.DataFrame
            ``method``; ``term``, the parameter; ``group`` and ``level``, of members their plate and
            which one; ``estimate``, the mean; ``std_error``, the sd; ``conf_low`` and
            ``conf_high``, the ends of the interval that ArviZ is set to (see :meth:`Fit.summary`);
            ``mcse``, the Monte Carlo error of the mean; ``interval``, its level and kind.
            Parameters are on the constrained scale: an sd is an sd, and what its label says.
            Constants are left out, and what a fit does not have is NaN.
        """
        return tidy(self, sites, members=members, conf_level=conf_level)

    @check_arguments("sites", "target", "members")
    def table(
        self,
        sites: Sequence[str] | None = None,
        *,
        target: Target | Model | None = None,
        members: bool = False,
        conf_level: float | None = None,
    ) -> PublishedTable:
        """Return a table to publish: methods as columns, estimates over sds over intervals.

        Parameters
        ----------
        sites, members, conf_level
            As in :meth:`tidy`.
        target
            What the fits are of. With it the foot has the number of observations and the expected
            log predictive density by leave-one-out cross-validation.

        Returns
        -------
        PublishedTable
            Its ``html()`` (by great_tables), ``markdown()``, ``latex()`` and ``csv()``, and
            ``save(path)``, which writes xlsx and docx too. The foot has groups, log evidence,
            seconds and the verdict.

        Examples
        --------
        >>> c.table(target=target).save("table.tex").name
        'table.tex'
        """
        known = None if target is None else as_target(target)
        return publish(self, sites, target=known, members=members, conf_level=conf_level)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    @check_arguments("path")
    def report(self, path: str | Path) -> Path:
        """Write the report in the format that the suffix of ``path`` names (.html, .md, .json)."""
        return write(self, Path(path))

    @check_arguments("directory")
    def save(self, directory: str | Path) -> Path:
        """Write everything to a folder: report, tables, figures, JSON and the fits.

        A fit that the folder holds already, from :func:`compare`, is not written again.
        """
        directory = Path(directory)
        save_all(self, directory)
        return directory

    @classmethod
    @check_arguments("directory")
    def load(cls, directory: str | Path) -> Comparison:
        """Read a comparison written by :meth:`save`.

        Raises
        ------
        ValueError
            If the folder holds none, or a fit is missing.
        """
        directory = Path(directory)
        header = read_header(directory)
        name = header["reference"]
        names = list(header["fits"])
        if name is not None and name not in names:
            names.append(name)
        labels = header.get("labels", {})
        kept = {
            n: load_fit(directory, n, Relabelling.from_json(labels[n]) if n in labels else None)
            for n in names
        }
        check_alike({n: one.fit for n, one in kept.items()})
        comparison = cls(
            {n: kept[n].fit for n in header["fits"]},
            reference=kept[name].fit if name is not None else None,
            reference_name=name,
            target_name=header["target_name"],
            notes=notes_from_json(header["notes"]),
            interrupted=header["interrupted"],
            left=MethodsLeft.from_dict(header["left"]) if "left" in header else None,
            description=header["description"],
            rows_left_out=header.get("rows_left_out", 0),
            quadrature=LogEvidence.from_dict(known)
            if (known := header.get("quadrature"))
            else None,
            found=Found.from_dict(header),
            exhibits=[read_exhibit(directory / FOLDER, **e) for e in header.get("exhibits", [])],
        )
        comparison.kept.update(kept)
        comparison.model_mark = header.get("model_mark", "")
        return comparison


def choose_reference(
    fits: Mapping[str, Fit], reference: str | Fit | None
) -> tuple[Fit | None, str | None]:
    """Return the reference and its name: by default a sampler; none where it has no result.

    It is the first sampler whose diagnostics vouch for it; where there is none such, a fit that
    states its own errors and meets them; then a sampler that others can be measured by with care.
    """
    if isinstance(reference, Fit):
        return reference, reference.method
    if reference is None:
        possible = [name for name, fit in fits.items() if fit.is_sampler]
        possible += [n for n, f in fits.items() if f.stated_error is not None and f.status.ok]
        possible.sort(key=lambda name: (unfit(fits[name]) != "", not fits[name].status.ok))
        reference = possible[0] if possible else None
    if reference is None or reference not in fits or not fits[reference].has_result:
        return None, None
    return fits[reference], reference


def assemble(
    target: Target,
    fits: Mapping[str, Fit],
    reference: str | Fit | None,
    *,
    kept: Mapping[str, KeptFit],
    interrupted: bool,
    left: MethodsLeft,
    description: str,
    notes: Sequence[str] = (),
    quadrature: LogEvidence | None = None,
    found: Found | None = None,
) -> Comparison:
    """Return the comparison of ``fits``, with the reference if it is there already."""
    chosen, name = choose_reference(fits, reference)
    comparison = Comparison(
        fits,
        reference=chosen,
        reference_name=name,
        target_name=target.name,
        interrupted=interrupted,
        left=left,
        description=description or target.model.description,
        rows_left_out=target.model.rows_left_out,
        notes=[*notes, *model_notes(target)],
        quadrature=quadrature,
        found=found,
    )
    comparison.kept.update(kept)
    if kept:  # a later comparison in the same folder asks whether the model is the same
        comparison.model_mark = attempt(lambda: model_mark(target), lambda _: "")
    return comparison

"""Several fits of one target, side by side."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from vi_recipes.core.progress import Progress, silent
from vi_recipes.core.status import Status
from vi_recipes.fit.differences import COLUMNS, differences, moments_of
from vi_recipes.fit.fit import MAX_STORED_COV, Fit, LogEvidence
from vi_recipes.methods import Method
from vi_recipes.model.target import Target
from vi_recipes.posterior.labels import PermutedPosterior, match
from vi_recipes.report.exhibit import FOLDER, Exhibit, read_exhibit, write_exhibits
from vi_recipes.trust.assess import assess
from vi_recipes.trust.verdict import Verdict, audit, verdict

if TYPE_CHECKING:
    import pandas as pd

ProgressFactory = Callable[[str], AbstractContextManager[Progress]]


def compare(
    target: Target,
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    reference: str | Fit | None = None,
    key: int = 0,
    path: str | Path | None = None,
    progress: ProgressFactory | None = None,
    description: str = "",
    assessed: bool = True,
    quadrature: bool = False,
) -> Comparison:
    """Fit every method to one target and lay the fits side by side.

    A method that fails is a row that says why; an interrupt keeps what is done.

    Parameters
    ----------
    target
        A model conditioned on data.
    methods
        Methods, named by their own names, or a mapping name -> method.
    reference
        Name of a method, or a :class:`Fit`, that the others are measured against. ``None`` takes
        the NUTS fit if there is one with a result.
    key
        Integer seed. Each method's stream depends on it and on the method's name alone, so adding
        a method changes no other.
    path
        Folder; each fit is saved to ``path/fits/<name>.nc`` as soon as it is done.
    progress
        Makes a progress reporter from a title, such as ``vi_recipes.core.progress.progress_bar``.
    description
        Stands at the head of the report.
    assessed
        Whether approximations weigh draws of their own by the posterior's density, after each fit
        and outside its time (see :func:`assess`).
    quadrature
        Whether log p(y) is had by quadrature too, where at most five coordinates are left when
        latent variables are integrated out; it takes from seconds to minutes.

    Raises
    ------
    ValueError
        For no methods, two of one name, a reference that is not among them, or a fit without
        numbers or of another model as reference.
    """
    named = _named(methods)
    reference = _checked_reference(reference, named, target)
    target.start(jax.random.key(key))  # a target without a finite density fails here, once
    fits: dict[str, Fit] = {}
    interrupted = False
    for name, method in named.items():
        with progress(name) if progress else nullcontext(silent) as report:
            stream = (key + zlib.crc32(name.encode())) % 2**31
            try:
                fit = method.fit(target, key=stream, progress=report, name=name)
                if assessed and fit.has_result:
                    report(1, 1, "assessing it")
                    fit = replace(fit, assessment=assess(fit, target, key=stream))
            except KeyboardInterrupt:
                message = "interrupted before there was a result"
                fit = Fit(
                    method=name,
                    status=Status.INTERRUPTED,
                    message=message,
                    sites=target.quantities,
                    coords=target.coords,
                    config=method.options(),
                )
        fits[name] = replace(fit, provenance=replace(fit.provenance, seed=key))
        if path is not None:
            save_fit(fits[name], Path(path))
            # what is on disk can be reported even if this process is killed
            _write_header(_assemble(target, fits, reference, True, description), Path(path))
        if fit.status is Status.INTERRUPTED:
            interrupted = True
            break
    comparison = _assemble(target, fits, reference, interrupted, description)
    notes = _scale_notes({n: m for n, m in named.items() if n in fits and fits[n].has_result})
    comparison = _align(comparison, target)
    comparison.notes[:0] = notes
    if quadrature and not interrupted:
        with progress("quadrature") if progress else nullcontext():
            comparison.quadrature = _by_quadrature(target)
    if path is not None:
        _save_fits(comparison, Path(path))
    return comparison


class Comparison(Mapping[str, Fit]):
    """An ordered mapping name -> :class:`Fit`, with a reference and tables over all fits.

    Every mean, sd and covariance is on the constrained scale. A fit without a result is NaN in
    every table.

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
    description
        Stands at the head of the report.
    exhibits
        Figures and tables of a study's own, which follow it.
    quadrature
        log p(y) by quadrature, or why it cannot be had; ``None`` where nobody asked.
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
        description: str = "",
        exhibits: Sequence[Exhibit] = (),
        quadrature: LogEvidence | None = None,
    ) -> None:
        self.fits = dict(fits)
        self.reference = reference
        self.reference_name = reference_name
        self.target_name = target_name
        self.notes = list(notes)
        self.interrupted = interrupted
        self.description = description
        self.exhibits = list(exhibits)
        self.quadrature = quadrature

    def __getitem__(self, name: str) -> Fit:
        return self.fits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the reference itself."""
        return audit(self.reference) if self.reference is not None else []

    @property
    def columns(self) -> dict[str, Fit]:
        """Name -> fit: the fits, and last the reference when it is not one of them."""
        columns = dict(self.fits)
        if self.reference is not None and self.reference_name not in columns:
            columns[self.reference_name or "reference"] = self.reference
        return columns

    def _table(
        self, sites: Sequence[str] | None, what: Callable[[Fit], Mapping[str, np.ndarray]]
    ) -> pd.DataFrame:
        import pandas as pd

        first = next(iter(self.columns.values()))
        labels = first.labels(sites)
        return pd.DataFrame(
            {
                name: fit.flat(what(fit), sites) if fit.has_result else np.nan
                for name, fit in self.columns.items()
            },
            index=labels,
            dtype=float,
        )

    def means(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the means (for a point, the point), a row a scalar and a column a fit."""
        return self._table(sites, Fit.mean)

    def sds(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the standard deviations, a row a scalar and a column a fit."""
        return self._table(sites, Fit.sd)

    def mcses(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Monte Carlo standard errors of the means."""
        return self._table(sites, Fit.mcse)

    def mcses_sd(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Monte Carlo standard errors of the standard deviations."""
        return self._table(sites, Fit.mcse_sd)

    def covariances(self, sites: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Return name -> joint covariance of ``sites``, for the fits that have one.

        Raises
        ------
        ValueError
            For more than 200 scalars: name fewer sites.
        """
        first = next(iter(self.columns.values()))
        size = len(first.labels(sites))
        if size > MAX_STORED_COV:
            raise ValueError(
                f"sites: {size} scalars have a covariance of {size} x {size}; "
                f"name sites of at most {MAX_STORED_COV} in all"
            )
        tables = {n: f.cov(sites) for n, f in self.columns.items() if f.has_result}
        return {n: t for n, t in tables.items() if not t.isna().all(axis=None)}

    def correlations(self, sites: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Return name -> correlation matrix of ``sites`` (see :meth:`covariances`)."""
        result = {}
        for name, cov in self.covariances(sites).items():
            sd = np.sqrt(np.diag(cov))
            with np.errstate(invalid="ignore", divide="ignore"):
                result[name] = cov.div(sd, axis=0).div(sd, axis=1)
        return result

    def timings(self) -> pd.DataFrame:
        """Return seconds, speed-up over the reference and evaluation counts, a row a fit."""
        import pandas as pd

        base = self.reference.timing.total_seconds if self.reference is not None else 0.0
        rows = {}
        for name, fit in self.fits.items():
            timing = fit.timing
            ess = fit.diagnostics.get("ess_bulk_min", np.nan) if fit.has_result else np.nan
            rows[name] = {
                "status": fit.status.name,
                "compile_seconds": timing.compile_seconds,
                "run_seconds": timing.run_seconds,
                "total_seconds": timing.total_seconds,
                "speed_up": base / timing.total_seconds
                if base and timing.total_seconds
                else np.nan,
                "density_evaluations": timing.density_evaluations,
                "gradient_evaluations": timing.gradient_evaluations,
                "hvp_evaluations": timing.hvp_evaluations,
                "ess_per_second": ess / timing.run_seconds if timing.run_seconds else np.nan,
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def diagnostics(self) -> pd.DataFrame:
        """Return status, message, evidence and every diagnostic, a row a fit."""
        import pandas as pd

        rows = {}
        for name, fit in self.fits.items():
            evidence = fit.log_evidence if fit.has_result else None
            rows[name] = {
                "status": fit.status.name,
                "message": fit.message,
                "advice": fit.advice,
                "log_evidence": evidence.value if evidence else np.nan,
                "log_evidence_se": evidence.se if evidence else np.nan,
                "log_likelihood": np.nan if fit.log_likelihood is None else fit.log_likelihood,
                **fit.diagnostics,
                **(fit.assessment.numbers() if fit.assessment else {}),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def accuracy(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the differences from the reference, a row a scalar and method.

        Columns ``difference`` (of means, in reference sds), ``difference_mcse``, ``sd_ratio``
        (method over reference), ``sd_ratio_mcse``, and ``within_error``: the difference is at
        most twice its Monte Carlo error, which is that of the reference and of the method.
        Without a reference the table is empty.
        """
        import pandas as pd

        frames = {}
        if self.reference is not None and self.reference.has_result:
            reference = moments_of(self.reference)
            frames = {
                name: differences(fit, reference, sites)
                for name, fit in self.fits.items()
                if name != self.reference_name and fit.has_result
            }
        if not frames:
            index = pd.MultiIndex.from_arrays([[], []], names=["parameter", "method"])
            return pd.DataFrame(columns=COLUMNS, index=index)
        joined = pd.concat(frames, names=["method", "parameter"]).swaplevel()
        order = [(p, m) for p in next(iter(frames.values())).index for m in frames]
        return joined.loc[order]

    def loo(
        self,
        target: Target,
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
        from vi_recipes.fit.loo import loo_table

        table, _ = loo_table(
            self.columns,
            target,
            base=self.reference_name,
            observed=observed,
            num_draws=num_draws,
            correct=correct,
        )
        return table

    def evidence(self) -> pd.DataFrame:
        """Return all bounds on log p(y) and estimates of it, a row each.

        Those of every fit's assessment, and that by quadrature where :func:`compare` was asked for
        it. Columns as :func:`vi_recipes.trust.evidence.evidence_table` returns them.
        """
        from vi_recipes.trust.evidence import evidence_table

        found: dict[str, Sequence[LogEvidence]] = {}
        for name, fit in self.columns.items():
            if fit.has_result and fit.assessment is not None:
                found[name] = fit.assessment.evidence
            elif fit.has_result and fit.log_evidence is not None:
                found[name] = [fit.log_evidence]
        if self.quadrature is not None:
            found["quadrature"] = [self.quadrature]
        return evidence_table(found)

    def verdicts(self) -> dict[str, Verdict]:
        """Return name -> how far the fit can be trusted, with the evidence.

        By the reference where there is one, else by the fit's own evidence.
        """
        table = self.accuracy()
        return {
            name: verdict(
                fit,
                None if name == self.reference_name else table,
                is_reference=name == self.reference_name,
            )
            for name, fit in self.fits.items()
        }

    def report(self, path: str | Path) -> Path:
        """Write the report in the format that the suffix of ``path`` names (.html, .md, .json)."""
        from vi_recipes.report import write

        return write(self, Path(path))

    def save(self, directory: str | Path) -> Path:
        """Write everything to a folder: report, tables, figures, JSON and the fits."""
        from vi_recipes.report import write_all

        directory = Path(directory)
        _save_fits(self, directory)
        write_all(self, directory)
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> Comparison:
        """Read a comparison written by :meth:`save`.

        Raises
        ------
        ValueError
            If the folder holds none, or a fit is missing.
        """
        directory = Path(directory)
        try:
            header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{directory}: no saved comparison here ({error}); "
                "make one with 'vi-recipes compare MODEL --out DIR'"
            ) from None
        fits = {name: Fit.load(_fit_path(directory, name)) for name in header["fits"]}
        name = header["reference"]
        reference = fits.get(name) if name else None
        if name and reference is None:
            reference = Fit.load(_fit_path(directory, name))
        return cls(
            fits,
            reference=reference,
            reference_name=name,
            target_name=header["target_name"],
            notes=header["notes"],
            interrupted=header["interrupted"],
            description=header["description"],
            quadrature=LogEvidence(**found) if (found := header.get("quadrature")) else None,
            exhibits=[read_exhibit(directory / FOLDER, **e) for e in header.get("exhibits", [])],
        )

    def _repr_html_(self) -> str:
        tables = (
            ("Means", self.means()),
            ("Standard deviations", self.sds()),
            ("Timings", self.timings()),
        )
        return "".join(f"<h4>{title}</h4>{table.to_html()}" for title, table in tables)

    def __repr__(self) -> str:
        listed = ", ".join(f"{n}: {f.status.name}" for n, f in self.fits.items())
        return f"Comparison({self.target_name!r}, {listed}; reference {self.reference_name})"


HEADER = "comparison.json"


def save_fit(fit: Fit, directory: Path) -> Path:
    """Write ``fit`` to its place in a comparison's folder."""
    path = _fit_path(directory, fit.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    return fit.save(path)


def save_exhibits(comparison: Comparison, directory: Path) -> None:
    """Write the exhibits to their place in a comparison's folder, so that it can be loaded."""
    write_exhibits(comparison.exhibits, directory / FOLDER)
    _write_header(comparison, directory)


def _save_fits(comparison: Comparison, directory: Path) -> None:
    """Write every fit, the reference and what binds them together."""
    for fit in comparison.columns.values():
        save_fit(fit, directory)
    _write_header(comparison, directory)


def _write_header(comparison: Comparison, directory: Path) -> None:
    header = {
        "fits": list(comparison.fits),
        "reference": comparison.reference_name,
        "target_name": comparison.target_name,
        "notes": comparison.notes,
        "interrupted": comparison.interrupted,
        "description": comparison.description,
        "quadrature": comparison.quadrature and asdict(comparison.quadrature),
        "exhibits": [
            {"name": e.name, "title": e.title, "caption": e.caption} for e in comparison.exhibits
        ],
    }
    (directory / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def _fit_path(directory: Path, name: str) -> Path:
    return directory / "fits" / f"{name}.nc"


def _named(methods: Sequence[Method] | Mapping[str, Method]) -> dict[str, Method]:
    pairs = (
        list(methods.items())
        if isinstance(methods, Mapping)
        else [(m.name if isinstance(m, Method) else "", m) for m in methods]
    )
    if not pairs:
        raise ValueError("methods: none given; name at least one, such as vi_recipes.MAP()")
    for name, method in pairs:
        if not isinstance(method, Method):
            raise ValueError(
                f"methods: got {method!r}, expected a method such as vi_recipes.NUTS()"
            )
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(f"methods: the name {name!r} must be letters, digits, '-', '_', '.'")
    names = [name for name, _ in pairs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(
            f"methods: more than one is named {', '.join(twice)}; give a mapping name -> method"
        )
    return dict(pairs)


def _checked_reference(
    reference: str | Fit | None, named: Mapping[str, Method], target: Target
) -> str | Fit | None:
    """Return the reference under a name of its own, or say why it cannot be one."""
    if isinstance(reference, str) and reference not in named:
        raise ValueError(
            f"reference: got '{reference}', expected one of the methods: {', '.join(named)}"
        )
    if not isinstance(reference, Fit):
        return reference
    if not reference.has_result:
        raise ValueError(f"reference: the fit has no numbers: {reference.explanation}")
    theirs, ours = ([(s.name, s.shape) for s in q] for q in (reference.sites, target.quantities))
    if theirs != ours:
        raise ValueError(
            f"reference: it is of a model with the sites {theirs}, expected {ours}; "
            "give a fit of this target"
        )
    taken = reference.method in named
    return reference.renamed(f"{reference.method}_reference") if taken else reference


def _choose_reference(
    fits: dict[str, Fit], reference: str | Fit | None
) -> tuple[Fit | None, str | None]:
    if isinstance(reference, Fit):
        return reference, reference.method
    if reference is None:
        samplers = [name for name, fit in fits.items() if fit.is_sampler]
        reference = samplers[0] if samplers else None
    if reference is None or reference not in fits or not fits[reference].has_result:
        return None, None
    return fits[reference], reference


def _assemble(
    target: Target,
    fits: Mapping[str, Fit],
    reference: str | Fit | None,
    interrupted: bool,
    description: str,
) -> Comparison:
    """Return the comparison of ``fits``, with the reference if it is there already."""
    chosen, name = _choose_reference(dict(fits), reference)
    return Comparison(
        fits,
        reference=chosen,
        reference_name=name,
        target_name=target.name,
        interrupted=interrupted,
        description=description or target.model.description,
    )


def _by_quadrature(target: Target) -> LogEvidence:
    from vi_recipes.trust.evidence import quadrature

    found = quadrature(target)
    if isinstance(found, str):
        return LogEvidence(float("nan"), float("nan"), f"not available ({found})")
    return found


def _align(comparison: Comparison, target: Target) -> Comparison:
    """Put exchangeable components of every fit in the order of the reference, and say so."""
    groups, fits = target.exchangeable, comparison.fits
    pivot = comparison.reference or next((f for f in fits.values() if f.has_result), None)
    if not groups or pivot is None:
        return comparison
    centre = pivot.mean()
    comparison.notes += [
        f"Components of {', '.join(g.sites)} are exchangeable: their labels are matched to those "
        f"of {pivot.method} (optimal assignment) before anything is compared."
        for g in groups
    ]
    for name, fit in fits.items():
        if not fit.has_result or fit.posterior is None:
            continue
        orders = match(fit.mean(), centre, groups)
        if any((order != np.arange(order.size)).any() for order in orders):
            posterior = PermutedPosterior(fit.posterior, tuple(groups), tuple(orders))
            found = fit.assessment and fit.assessment.permuted(posterior.permute)
            fits[name] = replace(fit, posterior=posterior, assessment=found)
            listed = "; ".join(str([int(i) for i in order]) for order in orders)
            comparison.notes.append(f"{name}: components taken in the order {listed}.")
    return comparison


def _scale_notes(methods: Mapping[str, Method]) -> list[str]:
    notes = ["Means, sds and covariances are those of the parameters as the model names them."]
    for name, method in methods.items():
        space = getattr(method, "space", None)
        if space is not None:
            extra = "without" if space == "constrained" else "with"
            notes.append(
                f"{name} is the mode of the density over the {space} scale ({extra} the Jacobian), "
                "shown on the constrained scale; the other scale has another mode."
            )
    return notes

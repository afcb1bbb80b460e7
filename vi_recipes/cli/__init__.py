"""The command line, ``vi-recipes``.

What a command needs is imported inside it, so that help and lists come at once.
"""

from __future__ import annotations

import _thread
import errno
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vi_recipes.cli import calibrate
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

if TYPE_CHECKING:
    from rich.console import Console

    from vi_recipes.comparison import Comparison
    from vi_recipes.fit import Fit

BAD_INPUT = 2
ALL_FAILED = 1
INTERRUPTED = 130


class _Group(TyperGroup):
    """Commands whose errors are sentences, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors and interrupts into exit codes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _tell("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            if ctx.meta.get("debug"):
                traceback.print_exc()
            else:
                _tell(f"error: {error}")
                if not _is_ours(error):
                    _tell("(unexpected: --debug shows where it comes from)")
            raise typer.Exit(BAD_INPUT) from None


def _is_ours(error: BaseException) -> bool:
    """Whether the error was raised on purpose: by this package, or by a model's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).resolve().parent.parent)
    return bool(frames) and (
        frames[-1].filename.startswith(package) or Path(frames[-1].filename).name == "model.py"
    )


def _tell(text: str) -> None:
    """Say something on standard error."""
    typer.echo(text, err=True)


app = typer.Typer(
    cls=_Group,
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
    sys.unraisablehook = _keep_interrupts
    app(prog_name="vi-recipes")


def _keep_interrupts(unraisable: Any) -> None:
    """Send Ctrl-C again where it fell on a garbage collection, which swallows exceptions."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


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
    from vi_recipes.content import list_studies, load_study

    if study is None:
        _print_list("study", list_studies())
        return
    from vi_recipes.progress import progress_bar

    loaded = load_study(study)
    folder = _report_folder(out, f"{loaded.name}-report", no_report)
    check_json(json)
    with output_folder(folder):
        comparison = loaded.run(folder, seed=seed, progress=progress_bar)
    _show_and_write(comparison, folder, json)
    _exit(comparison)


@app.command(epilog="\b\nExample:\n  vi-recipes models\n")
def models() -> None:
    """List the shipped models."""
    from vi_recipes.content import list_models

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
    from vi_recipes.content import unknown
    from vi_recipes.methods import METHODS

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
    from vi_recipes.comparison import Comparison
    from vi_recipes.report import write_all

    check_json(json)
    comparison = Comparison.load(directory)
    with output_folder(directory):
        _show_and_write(comparison, directory, json, write_all)  # leaves the fits as they are


@app.command(
    epilog="""\b
Examples:
  vi-recipes verify
  vi-recipes verify --models radon,seeds --methods lrvb,nuts
  vi-recipes verify --references my_answers --out verified

\b
Exit codes: 0; 1 if a verdict is contradicted or a method raised an error; 2 for bad usage or
input; 130 on Ctrl-C, after which the same command goes on where it was.
"""
)
def verify(
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Shipped models. [default: all with answers]"),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Methods. [default: those that apply, but forward_kl and svgd, and svi with a "
            "full covariance]",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="More answers: DIR/MODEL/data.json and DIR/MODEL/reference.json.",
        ),
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./verification")] = None,
    no_report: NoReportOption = False,
    debug: DebugOption = False,
) -> None:
    """Set what every fit says of itself beside reference answers that it never saw."""
    from vi_recipes.cli.verify import run

    folder = _report_folder(out, "verification", no_report)
    code = run(models, methods, references, seed, folder)
    if code:
        raise typer.Exit(code)


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
) -> None:
    """Check everything that can be checked, then fit, print and write."""
    from vi_recipes.cli import options
    from vi_recipes.cli.inputs import check_json, make_target, output_folder
    from vi_recipes.content import load_model, unknown
    from vi_recipes.reference import load_reference

    settings = options.parse_settings(pairs)
    model = load_model(model_name)
    entries = None if method_names is None else options.parse_methods(method_names)
    target = make_target(model, data, settings.get(options.MODEL, {}), _tell)
    methods = options.build_methods(entries, settings, target)
    measure: str | Fit | None = reference
    if reference is not None and reference.endswith(".json"):
        measure = load_reference(reference, target)
    elif reference is not None and reference not in methods:
        raise ValueError(f"--reference: {unknown('method', reference, methods)}")
    folder = _report_folder(out, f"{model.name}-{suffix}", no_report)
    check_json(json)

    from vi_recipes.comparison import compare
    from vi_recipes.progress import progress_bar

    with output_folder(folder):
        comparison = compare(
            target, methods, reference=measure, key=seed, path=folder, progress=progress_bar
        )
        if predictive and not comparison.interrupted:
            from vi_recipes.report.predictive import add_predictive

            add_predictive(comparison, target, seed, progress_bar)
    _show_and_write(comparison, folder, json)
    _exit(comparison)


def _report_folder(out: Path | None, default: str, no_report: bool) -> Path | None:
    if no_report and out is not None:
        raise ValueError("--out and --no-report: expected at most one of them")
    return None if no_report else out or Path(default)


def _show_and_write(
    comparison: Comparison,
    folder: Path | None,
    json: Path | None,
    write: Callable[[Comparison, Path], object] | None = None,
) -> None:
    """Print what a comparison found, and write what was asked for."""
    from vi_recipes.cli import show

    console = show.make_console(stderr=str(json) == "-")
    show.show_comparison(console, comparison)
    if json is not None:
        _write_json(comparison, json)
    if folder is not None:
        write(comparison, folder) if write else comparison.save(folder)
        console.print(f"\nReport: {folder / 'report.html'}")


def _exit(comparison: Comparison) -> None:
    """Exit with the code that says how it went, unless it went well."""
    if comparison.interrupted:
        _tell("interrupted; what was done is above")
        raise typer.Exit(INTERRUPTED)
    if not any(fit.has_result for fit in comparison.fits.values()):
        _tell("error: no method gave a result; the verdicts above say why and what to try")
        raise typer.Exit(ALL_FAILED)


def _write_json(comparison: Comparison, path: Path) -> None:
    from vi_recipes.json_result import dumps

    if str(path) == "-":
        typer.echo(dumps(comparison), nl=False)
    else:
        path.write_text(dumps(comparison), encoding="utf-8")


def _print_list(what: str, entries: dict[str, str]) -> None:
    """Print names with a line on each."""
    from vi_recipes.cli.show import make_console, show_item

    console: Console = make_console()
    if not entries:
        console.print(f"no {what} found")
    for name, text in entries.items():
        show_item(console, name, text, max(map(len, entries)))

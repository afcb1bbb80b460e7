"""The commands of ``vi-recipes``, and what holds for all of them."""

from __future__ import annotations

import atexit
import gc
import sys
import warnings

import typer

from vi_recipes.cli import calibrate, compare, docs, lists, new, report, run, sweep, verify
from vi_recipes.cli.arguments import VersionOption
from vi_recipes.cli.group import CommandGroup, open_closed_streams, tell_warning
from vi_recipes.core import collect_rarely

app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def begin() -> None:
    """Run the command that the words of the process name."""
    collect_rarely()
    # as it ends, Python looks for garbage among all there is: a second, of what goes away with the
    # process. What is registered first is called last
    atexit.register(gc.freeze)
    open_closed_streams()
    warnings.showwarning = tell_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # signs that the encoding lacks are replaced
            stream.reconfigure(errors="replace")
    app(prog_name="vi-recipes")


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


app.command("compare", epilog=compare.COMPARE_EPILOG)(compare.compare)
app.command("fit", epilog=compare.FIT_EPILOG)(compare.fit)
app.command("calibrate", epilog=calibrate.EPILOG)(calibrate.command)
app.command("verify", epilog=verify.EPILOG)(verify.command)
app.command("sweep", epilog=sweep.EPILOG)(sweep.command)
app.command("run", epilog=run.EPILOG)(run.command)
app.command("models", epilog=lists.MODELS_EPILOG)(lists.models)
app.command("methods", epilog=lists.METHODS_EPILOG)(lists.methods)
app.command("docs", epilog=docs.EPILOG)(docs.command)
app.command("report", epilog=report.EPILOG)(report.command)
app.command("new", epilog=new.EPILOG)(new.command)

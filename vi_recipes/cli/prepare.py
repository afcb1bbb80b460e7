"""What a command starts from, checked before anything is fitted."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vi_recipes.cli.formula import Written
from vi_recipes.cli.options import MODEL, build_methods, model_arguments, parse_settings
from vi_recipes.core import Beside
from vi_recipes.data import (
    JSON,
    NETCDF,
    PARQUET,
    check_file,
    has_loose_columns,
    keep_arguments,
    read_data,
)
from vi_recipes.model import Model, load_model

if TYPE_CHECKING:
    from vi_recipes.methods import Method
    from vi_recipes.model import Target


def prepare(
    model_name: str | None,
    data: Path | None,
    entries: Mapping[str, str] | None,
    pairs: Sequence[str],
    tell: Callable[[str], None],
    written: Written | None = None,
) -> tuple[Target, dict[str, Method]]:
    """Return the target and the methods that a command is to run.

    Parameters
    ----------
    model_name, data
        The model's name or file, and the user's data; ``None`` for the model's own.
    entries
        The methods asked for, from :func:`~vi_recipes.methods.parse_methods`; ``None`` for
        all that apply.
    pairs
        Settings as text, ``NAME.OPTION=VALUE``.
    tell
        Told what was done to the data.
    written
        The model by formula, where there is no name: :meth:`Written.check` has seen them.
    """
    settings = parse_settings(pairs)
    written = written or Written()
    if model_name is not None:
        target = make_target(load_model(model_name), data, settings.get(MODEL, {}), tell)
    elif MODEL in settings:
        raise ValueError("--set model.NAME: expected a MODEL; a formula's takes no arguments")
    else:
        target = written.target(data, tell)
    return target, build_methods(entries, settings, target)


@contextmanager
def looking_for_a_start(target: Target, seed: int) -> Iterator[None]:
    """Look for a starting point beside the block, which imports what comes next.

    A comparison looks for it again, and says then if there is none: what was compiled for it is
    there by that time. XLA compiles without Python's lock.
    """

    def look() -> None:
        import jax

        with suppress(Exception):
            target.start(jax.random.key(seed))

    beside = Beside(look, "start", daemon=False)
    with warnings.catch_warnings():  # filters, which the search changes, are all threads' own
        beside.start()
        try:
            yield
        finally:
            beside.wait()


def import_what_follows(methods: Iterable[Method], *, kept: bool) -> None:
    """Import what weighs, keeps, draws and lays side by side a command's fits: a second or two.

    Parameters
    ----------
    methods
        What is fitted in this process.
    kept
        Whether there is a report, and with it a file of every fit.
    """
    import vi_recipes.comparison  # noqa: F401  # with Matplotlib and pandas

    if kept:
        import arviz_base  # noqa: F401  # with xarray
        import h5netcdf  # noqa: F401
    if not all(method.is_point for method in methods):
        import arviz_stats.base  # noqa: F401  # with SciPy's statistics and signals


def make_target(
    model: Model, path: Path | None, texts: Mapping[str, str], tell: Callable[[str], None]
) -> Target:
    """Return the model conditioned on its data.

    Parameters
    ----------
    model
        What to fit.
    path
        The user's data; ``None`` for the model's own.
    texts
        Keyword arguments given as text, which take the place of those of the same name.
    tell
        Told what was done to the data.
    """
    from vi_recipes.data import bind
    from vi_recipes.model import Target

    given = model_arguments(model, texts)
    if path is not None:
        data = {**_read(model, path, set(given), tell), **given}
        # Checked here too, because a target completes what is missing from the model's own data.
        bind(model.function, data)
        return Target(model, **data)
    missing = [name for name in _required(model) if name not in given]
    if missing and model.data is None:
        raise ValueError(
            f"model '{model.name}' has no data of its own; give it {', '.join(missing)} with "
            "--data FILE, as the keys or columns of the file"
        )
    return Target(model, **given)


def _read(model: Model, path: Path, given: set[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Read the user's data; a model's own reader takes the files that need one."""
    if model.load is not None and not path.name.lower().endswith(JSON + PARQUET + NETCDF):
        check_file(path)
        try:
            return dict(model.load(path))
        except Exception as error:  # any model's reader, so any error
            text = str(error) if str(path) in str(error) else f"{path}: {error}"
            kind = "" if isinstance(error, ValueError) else f" ({type(error).__name__})"
            raise ValueError(f"{text}{kind}") from error
    data = read_data(path)
    if not has_loose_columns(path):
        return data
    kept, dropped = keep_arguments(model.function, data)
    if any(name not in kept and name not in given for name in _required(model)):
        return data  # the complaint about what is missing then lists what there is
    if dropped:
        tell(f"note: {path}: not taken by the model, and left out: {', '.join(dropped)}")
    return kept


def _required(model: Model) -> list[str]:
    return [
        p.name
        for p in inspect.signature(model.function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]

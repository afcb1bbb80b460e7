"""Design matrices by formulae: the only file that knows it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from vi_recipes.core import told, unknown
from vi_recipes.formula.groups import places_in
from vi_recipes.formula.parse import tokens_of
from vi_recipes.formula.terms import columns_of, is_computed, written_out

FUNCTIONS = ("log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "abs", "sin", "cos", "tanh")
"""Of NumPy, that formulas may use by name."""

OTHERS = ("C", "I", "center", "scale", "poly", "bs", "offset")
"""Of formulae, that the manual lists."""

CODED = re.compile(r"\bC\(\s*([^,()\[\]]+?)\s*(?:,[^\[\]]*)?\)\[")
"""The label of a level whose coding is said: ``C(period)[2]`` is called ``period[2]``."""

SPLINE, LEVELS = "a spline is bs(x, df=5)", "numbers are levels by C(x)"
CURES = {
    **dict.fromkeys(("s", "te", "ti", "t2", "ns", "cr"), SPLINE),
    **dict.fromkeys(("factor", "as", "ordered"), LEVELS),
}
"""Of functions that other formulas have."""

NEW_LEVELS = re.compile(r"The levels? \((.*)\) in '(.*)' (?:are|is) not present")
"""What formulae says of levels that the data did not have."""

NOT_MULTIPLIED = re.compile(r"Interaction with '(.*)' is not supported")
"""What formulae says of functions that it does not multiply by anything."""

MOST_LEVELS = 8
"""That a complaint lists."""


class Design:
    """The columns that terms of a formula stand for, at the data and at new data.

    Parameters
    ----------
    terms
        Without response and group terms; the intercept is implied.
    data
        The columns that they use, without missing values.

    Raises
    ------
    ValueError
        For terms that formulae cannot evaluate, and where it is not installed.
    """

    def __init__(self, terms: str, data: pd.DataFrame) -> None:
        self.terms, self.data = terms, data
        _check_levels(terms, data)
        self._common: Any = _evaluate(terms, written_out(terms), data).common
        self.uses = self._uses()
        """Column of the data that terms use -> its levels, the first first; ``None`` where some
        term takes it for numbers."""
        self.intercept = False
        self.labels: list[str] = []
        self._columns: list[int] = []
        self._offsets: list[int] = []
        for term in [] if self._common is None else self._common.terms.values():
            place = self._common.slices[term.name]
            columns = range(place.start, place.stop)
            if term.kind == "intercept":
                self.intercept = True
            elif term.kind == "offset":
                self._offsets += columns
            else:
                self._columns += columns
                self.labels += [str(label) for label in term.labels]
        plain = [CODED.sub(r"\1[", label) for label in self.labels]
        self.labels = plain if len(set(plain)) == len(plain) else self.labels
        matrix = np.zeros((len(data), 0)) if self._common is None else self._common.design_matrix
        self._check_coding(matrix.shape[1] - len(self._offsets))
        self.matrix, self.offset = self._parts(np.asarray(matrix, float), "formula")
        """Shapes (rows, columns) and, if there is one, (rows,)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the data that the terms use."""
        return tuple(self.uses)

    @property
    def levels(self) -> dict[str, Sequence[Any]]:
        """Column -> its levels, the first first, of those taken for levels alone."""
        return levels_alone([self.uses])

    def _uses(self) -> dict[str, Sequence[Any] | None]:
        terms = [] if self._common is None else self._common.terms.values()
        parts = [part for term in terms for part in getattr(term, "components", ())]
        found: dict[str, Sequence[Any] | None] = {}
        for name in self.data.columns:  # functions and codings are among the names of parts
            own = [self._taken_for(name, part) for part in parts if name in part.var_names]
            if own:
                found[name] = None if None in own else own[-1]
        return found

    def _taken_for(self, name: str, part: Any) -> list[Any] | None:
        """Return the levels of a column that a part of a term takes it for; ``None`` for others."""
        alone = len(part.var_names & set(self.data.columns)) == 1
        own = {str(v): v for v in self.data[name].unique()} if part.kind == "categoric" else {}
        if not alone or not own or not all(str(level) in own for level in part.levels):
            return None  # numbers, or a function of it
        # what levels are coded against is in no matrix where each has an indicator
        call = getattr(part, "call", None)
        coded = None if call is None else call.eval(self.data, part.env)
        first = str(getattr(getattr(coded, "contrast", None), "reference", None))
        return sorted((own[str(level)] for level in part.levels), key=lambda v: str(v) != first)

    def _check_coding(self, number: int) -> None:
        """Refuse terms for whose levels formulae makes too few columns, as of ``a:b:c`` alone."""
        factors = []
        for term in [] if self._common is None else self._common.terms.values():
            parts = getattr(term, "components", ())
            numbers = {p.name: p.value for p in parts if p.kind == "numeric"}
            width = prod(1 if v.ndim < 2 else v.shape[1] for v in numbers.values())
            levels = {p.name: len(p.levels) for p in parts if p.kind == "categoric"}
            if term.kind != "offset":
                factors.append((tuple(numbers), width, levels))
        if number < columns_of(factors):
            raise ValueError(
                f"formula: '{self.terms}' has interactions of three categories or more without "
                "those of fewer; write these too, such as a * b * c"
            )

    def _parts(self, matrix: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return columns and offset, which are finite."""
        columns = matrix[:, self._columns]
        offset = matrix[:, self._offsets].sum(axis=1) if self._offsets else None
        bad = ~np.isfinite(columns)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{what}: column {self.labels[column]} is {columns[row, column]} in row "
                f"{row + 1}, where a finite number is expected"
            )
        if offset is not None and not np.isfinite(offset).all():
            row = int(np.argmin(np.isfinite(offset)))
            raise ValueError(
                f"{what}: the offset is {offset[row]} in row {row + 1}, where a finite "
                "number is expected"
            )
        return columns, offset

    def at(self, data: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the columns and the offset at new data.

        What was learned from the data, such as means, knots and levels, stays as it was.

        Raises
        ------
        ValueError
            For a level that the data did not have, text where they had numbers, and a column that
            is not finite.
        """
        if self._common is None:
            return np.zeros((len(data), 0)), None
        for name in self.columns:
            data = data.assign(**{name: self._as_before(data[name])})
        try:
            with _telling(self.terms):
                matrix = self._common.evaluate_new_data(data).design_matrix
        except ValueError as error:
            raise self._with_new_levels(error) from None
        return self._parts(np.asarray(matrix, float), "data")

    def _as_before(self, column: pd.Series) -> pd.Series:
        """Return a column of new data with levels as the data had them."""
        name = str(column.name)
        if name not in self.levels:
            had = pd.api.types.is_numeric_dtype(self.data[name].dtype)
            if had and not pd.api.types.is_numeric_dtype(column.dtype):
                raise ValueError(
                    f"data: column '{name}' holds {column.iloc[0]!r}, expected numbers, as the "
                    "rows that were fitted have"
                )
            return column
        levels = self.levels[name]
        places = places_in(levels, column)
        own = np.array([*levels, None], object)[places]
        return pd.Series(np.where(places < 0, column.astype(object), own), column.index)

    def _with_new_levels(self, error: ValueError) -> ValueError:
        """Return an error that says which levels the data had, where it is of others."""
        found = NEW_LEVELS.search(str(error))
        if found is None:
            return error
        new, term = found.groups()
        named = [
            name for name in self.columns if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", term)
        ]
        said = ""
        if len(named) == 1:
            levels = list(map(str, sorted(pd.unique(self.data[named[0]]))))
            more = ", ..." if len(levels) > MOST_LEVELS else ""
            said = f"; they have {', '.join(levels[:MOST_LEVELS])}{more}"
        return ValueError(f"data: '{term}' has {new}, which no row that was fitted has{said}")

    def __getstate__(self) -> dict[str, Any]:
        return {"terms": self.terms, "data": self.data}  # formulae's own objects hold modules

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _check_levels(terms: str, data: pd.DataFrame) -> None:
    """Refuse columns of one level, of which formulae makes no columns at all."""
    plain = "".join(terms.split())
    for name in dict.fromkeys(token.named for token in tokens_of(terms)):
        if name not in data:
            continue
        column = data[name]
        of_levels = not pd.api.types.is_numeric_dtype(column.dtype) or f"C({name}" in plain
        if of_levels and (column == column.iloc[0]).all():
            raise ValueError(
                f"formula: '{terms}': column '{name}' has one level ({column.iloc[0]}), which "
                "tells nothing apart; leave it out"
            )


def levels_alone(uses: Iterable[Mapping[str, Sequence[Any] | None]]) -> dict[str, Sequence[Any]]:
    """Return column -> its levels, of those that are taken for levels wherever they are used."""
    all_of = [(name, levels) for used in uses for name, levels in used.items()]
    numbers = {name for name, levels in all_of if levels is None}
    return {name: levels for name, levels in all_of if levels is not None and name not in numbers}


def response_values(text: str, data: pd.DataFrame) -> pd.Series:
    """Return the values of a response that is an expression or ``column[level]``.

    Raises
    ------
    ValueError
        For what formulae cannot evaluate.
    """
    if is_computed(text):
        raise ValueError(
            f"response '{text}': what is computed stands in braces, {{{text.strip()}}}"
        )
    response = _evaluate(text, f"{text} ~ 1", data).response
    values = np.asarray(response.design_matrix)
    if values.ndim > 1 and values.shape[1] > 1:
        raise ValueError(
            f"response '{text}': it has {values.shape[1]} columns, expected one; levels are those "
            "of a column, which stands alone"
        )
    return pd.Series(values.reshape(len(data)))


def _evaluate(said: str, text: str, data: pd.DataFrame) -> Any:
    """Return what formulae makes of a formula; errors say what the user wrote."""
    try:
        from formulae import design_matrices
        from formulae.environment import Environment
    except ImportError:
        raise ValueError(
            "formulas need the package formulae; install it with "
            "python -m pip install 'vi_recipes[formula]'"
        ) from None
    names = {name: getattr(np, name) for name in FUNCTIONS} | {"np": _NumPy(), "pi": np.pi}
    with _telling(said):
        env = Environment([names | _contrasts()])
        return design_matrices(text, data, na_action="error", env=env)


class _NumPy:
    """NumPy, as formulas name it; formulae copies its names, and no module can be copied."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def __deepcopy__(self, memo: Any) -> _NumPy:
        return self


@contextlib.contextmanager
def _telling(text: str) -> Any:
    """Say in a sentence what formulae raises; it prints too."""
    heard = _Heard()
    logger = logging.getLogger("formulae")
    kept, out, logger.handlers = logger.handlers, sys.stdout, [heard]
    try:
        # what is not finite is said with its row, by whoever takes the columns
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
        if heard.says:  # a power of a column would be the column itself
            raise ValueError(" ".join(heard.says.split()))
    except Exception as error:
        if isinstance(error, KeyError):
            name = str(error).strip("'")
            says = (
                f"there is no {error} among columns and functions; {CURES[name]}"
                if name in CURES
                else unknown("function", name, [*FUNCTIONS, *OTHERS])
            )
        elif alone := NOT_MULTIPLIED.match(str(error)):
            says = (
                f"{alone[1]}() is not multiplied by other terms; poly(x, 3) is, and so are columns "
                "of the data"
            )
        else:
            says = told(error)
        raise ValueError(f"formula: '{text}' cannot be evaluated: {says}") from None
    finally:
        logger.handlers, sys.stdout = kept, out  # which an interrupt may have left elsewhere


class _Heard(logging.Handler):
    """Keeps what formulae warns of."""

    says = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.says = record.getMessage()


def _contrasts() -> dict[str, Any]:
    """Return Helmert and polynomial contrasts, which formulae lacks."""
    from formulae.categorical import ContrastMatrix, Encoding

    def coded(make: Any) -> type:
        class Coding(Encoding):  # type: ignore[misc]
            def code_without_intercept(self, levels: list[Any]) -> Any:
                matrix, labels = make(len(levels))
                return ContrastMatrix(matrix, labels)

            def code_with_intercept(self, levels: list[Any]) -> Any:
                return ContrastMatrix(np.eye(len(levels)), [str(level) for level in levels])

        return Coding

    def helmert(n: int) -> tuple[np.ndarray, list[str]]:
        matrix = np.zeros((n, n - 1))
        for j in range(n - 1):
            matrix[: j + 1, j], matrix[j + 1, j] = -1.0, j + 1.0
        return matrix, [str(j + 1) for j in range(n - 1)]

    def polynomial(n: int) -> tuple[np.ndarray, list[str]]:
        x = np.arange(n) - (n - 1) / 2
        orthogonal, upper = np.linalg.qr(np.vander(x, increasing=True))
        matrix = orthogonal[:, 1:] * np.sign(np.diag(upper))[1:]
        return matrix, [{1: "L", 2: "Q", 3: "C"}.get(j, f"^{j}") for j in range(1, n)]

    return {"Helmert": coded(helmert), "Polynomial": coded(polynomial)}

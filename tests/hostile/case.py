"""A hostile case: files, a command, and the outcome that is promised."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from vi_recipes.cli.commands import app

LONGEST = 700
"""Characters of a refusal, at most: it is a sentence or two."""

SIGNS_OF_A_CRASH = ("Traceback (most recent call last)", "(unexpected:", "jax._src")
"""What no user sees."""

type Check = Callable[["Done"], None]
"""Raises an :class:`AssertionError` for what is wrong or lost."""


class Outcome(Enum):
    """What is promised of a case."""

    RIGHT = "right"
    """The numbers, or the files, that are right by another calculation."""

    TOLD = "told"
    """No right number is to be had: a row, a note or a status says why; the rest is there."""

    REFUSED = "refused"
    """Exit code 2 and one sentence: what was got, what was expected."""


@dataclass(frozen=True)
class Case:
    """One command, in a folder of its own.

    Parameters
    ----------
    name
        Says what is hostile, in a few words.
    command
        The words after ``vi-recipes``.
    outcome
        What is promised.
    files
        Path -> content, written before the command runs; or what writes it.
    says
        Words that standard error must have where the command is refused, and its output elsewhere.
    check
        What else must hold.
    first
        Commands that run before it, and must succeed.
    between
        Done to the folder after those.
    """

    name: str
    command: tuple[str, ...]
    outcome: Outcome
    files: Mapping[str, str | bytes | Callable[[Path], object]] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    check: Check | None = None
    first: tuple[tuple[str, ...], ...] = ()
    between: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """The machine-readable result, where the command wrote it to ``result.json``."""
        read: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return read

    def mean(self, method: str, label: str) -> float:
        """Return a mean of the machine-readable result, of the scalar with this label."""
        return self._value(method, "mean", label)

    def sd(self, method: str, label: str) -> float:
        """Return an sd of the machine-readable result, of the scalar with this label."""
        return self._value(method, "sd", label)

    def _value(self, method: str, what: str, label: str) -> float:
        fit = self.result["methods"][method]
        return float(fit[what][fit["labels"].index(label)])

    def status(self, method: str) -> str:
        """Return a method's status."""
        word: str = self.result["methods"][method]["status"]
        return word


def run(words: tuple[str, ...], folder: Path) -> Done:
    """Run the command line in this process, and have it print all that it has to say."""
    if words[:1] in (("compare",), ("fit",), ("run",), ("report",)):
        words = (*words, "--all")
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("default")  # the tests' own filters make errors of them
        done = CliRunner().invoke(app, list(words), prog_name="vi-recipes")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr, folder)


PREPARED: dict[tuple[object, ...], Path] = {}
"""Folders in which the first commands of some case have run."""


def prepare(case: Case, folder: Path) -> None:
    """Write a case's files and run its first commands, or copy what they left for another."""
    key = (case.first, *sorted((name, str(content)) for name, content in case.files.items()))
    if case.first and key in PREPARED:
        shutil.copytree(PREPARED[key], folder, dirs_exist_ok=True, symlinks=True)
        return
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    for words in case.first:
        before = run(words, folder)
        assert before.code == 0, before.stderr
    if case.first:
        PREPARED[key] = Path(tempfile.mkdtemp(prefix="hostile_"))
        atexit.register(shutil.rmtree, PREPARED[key], ignore_errors=True)
        shutil.copytree(folder, PREPARED[key], dirs_exist_ok=True, symlinks=True)


def play(case: Case, folder: Path) -> Done:
    """Run a case in an empty folder, and hold its outcome against what is promised.

    Raises
    ------
    AssertionError
        For an outcome that is not the one promised.
    """
    prepare(case, folder)
    if case.between is not None:
        case.between(folder)
    done = run(case.command, folder)
    judge(case, done)
    return done


def judge(case: Case, done: Done) -> None:
    """Hold an outcome against what is promised (see :func:`play`)."""
    both = done.stdout + done.stderr
    for sign in SIGNS_OF_A_CRASH:
        assert sign not in both, f"{sign!r} in: {both[-2_000:]}"
    if case.outcome is Outcome.REFUSED:
        assert done.code == 2, f"exit code {done.code}: {both[-2_000:]}"
        heard = done.stderr
        assert len(heard) <= LONGEST, f"{len(heard)} characters: {heard}"
    else:
        heard = " ".join(both.split())  # a table may break a sentence
        expected = (0, 1) if case.outcome is Outcome.TOLD else (0,)
        assert done.code in expected, f"exit code {done.code}: {both[-2_000:]}"
    for words in case.says:
        assert words.lower() in heard.lower(), f"{words!r} not in: {heard[-2_000:]}"
    if case.check is not None:
        case.check(done)


def fits(model: str, *more: str, methods: str = "map", data: str | None = None) -> tuple[str, ...]:
    """Return the command that fits a model without a report, its result in ``result.json``."""
    file = () if data is None else ("--data", data)
    quiet = ("--no-report", "--json", "result.json")
    return ("compare", model, *file, "--methods", methods, *quiet, *more)


def near(value: Any, right: float, within: float) -> None:
    """Assert that a number is as right as it must be."""
    assert abs(float(value) - right) <= within, f"got {value}, right is {right} (within {within})"

"""Formulas: that do not parse, do not go with the data, or cannot be told apart by them."""

from __future__ import annotations

from collections.abc import Callable

from hostile.case import Case, Done, Outcome, near
from hostile.texts import LINE_CSV, A, B

ROWS = "y,x,g,zero\n0,1,a,0\n1,2,a,0\n0,1.5,b,1\n1,2.5,b,1\n1,3,c,1\n"
MANY = ",".join(f"column_{k}" for k in range(400))
PRIORS = ("--prior", "Intercept=Normal(0, 10)", "--prior", "beta=Normal(0, 10)")
KNOWN = (*PRIORS, "--prior", "sigma=1")


def _command(formula: str, *more: str) -> tuple[str, ...]:
    quiet = ("--methods", "map", "--no-report", "--json", "result.json")
    return ("compare", "--formula", formula, "--data", "d.csv", *quiet, *more)


def _refused(name: str, formula: str, content: str, *says: str, more: tuple[str, ...] = ()) -> Case:
    return Case(name, _command(formula, *more), Outcome.REFUSED, {"d.csv": content}, says)


def _ridge(column: str) -> Callable[[Done], None]:
    def check(done: Done) -> None:
        near(done.mean("map", "Intercept"), A, 1e-4)
        near(done.mean("map", f"beta[{column}]"), B, 1e-4)

    return check


def _bounded(done: Done) -> None:
    assert 0 < done.mean("map", "beta[x]") < 100


YES = ("--family", "bernoulli")

CASES = [
    Case(
        "columns named as the source's own words",
        _command("law ~ row", *KNOWN),
        Outcome.RIGHT,
        {"d.csv": LINE_CSV.replace("x,y", "row,law")},
        check=_ridge("row"),
    ),
    Case(
        "rows without a response, left out",
        _command("y ~ x", *KNOWN, "--missing", "drop"),
        Outcome.RIGHT,
        {"d.csv": f"{LINE_CSV}5.0,\n"},
        ("1 of 5 rows left out",),
        _ridge("x"),
    ),
    Case(
        "columns named with signs",
        _command("`y (mm)` ~ `a/b`", *KNOWN),
        Outcome.RIGHT,
        {"d.csv": LINE_CSV.replace("x,y", "a/b,y (mm)")},
        check=_ridge("a/b"),
    ),
    Case(
        "responses that a column separates",
        _command("zero ~ x", *YES, "--prior", "beta=Normal(0, 1)"),
        Outcome.TOLD,
        {"d.csv": "zero,x\n0,1\n0,2\n1,3\n1,4\n"},
        ("separated by x",),
        _bounded,
    ),
    _refused(
        "flat priors where a column separates", "zero ~ x", "zero,x\n0,1\n0,2\n1,3\n1,4\n",
        "separated by x", more=(*YES, "--prior", "flat"),
    ),
    _refused("a formula that ends early", "y ~ x +", ROWS, "got the end", "^", more=YES),
    _refused("a column that is not there", "y ~ z", ROWS, "unknown column 'z'", more=YES),
    _refused("one of 400 columns misspelt", "colum_7 ~ 1", f"{MANY}\n{MANY}\n", "'column_7'"),
    _refused("a response outside its family", "y ~ x", ROWS.replace("1,3", "2,3"),
             "row 5", "got 2", more=YES),
    _refused("a group with one member", "x ~ (1 | g)", "x,g\n1,a\n2,a\n3,a\n", "one member"),
    _refused("a column twice", "x ~ y + z", "x,y,z\n1,1,2\n2,2,4\n4,1,2\n", "z is a combination"),
    _refused("missing values", "y ~ x", "y,x\n0,1\n1,\n1,2\n", "1 of 3 rows", "x 1", more=YES),
    _refused("half an event", "p(y, n) ~ 1", "y,n\n0.5,2\n1,2\n", "got 0.5",
             more=("--family", "binomial")),
    _refused("a family that is none", "y ~ x", ROWS, "did you mean", more=("--family", "normall")),
    _refused("a column called as the intercept", "y ~ Intercept", ROWS.replace("x", "Intercept"),
             "column 'Intercept' has the name of the intercept", more=YES),
    _refused("a group called with a slash that is not there", "x ~ (1 | `a/b`)", ROWS,
             "unknown column 'a/b'"),
    _refused("a prior that runs code", "y ~ x", ROWS, "unknown distribution 'print'",
             more=(*YES, "--prior", "beta=print(1)")),
    _refused("code as a term", "y ~ exit(1)", ROWS, "'exit'", more=YES),
]  # fmt: skip

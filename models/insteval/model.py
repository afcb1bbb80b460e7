"""InstEval: ratings of lectures, students crossed with lecturers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

GOOD = 4
"""The logistic model asks whether a rating is at least this."""

COLUMNS = ("s", "d", "service", "y")
SHIPPED = Path(__file__).with_name("data.csv.gz")


def insteval(
    y: jax.Array,
    service: jax.Array,
    student: jax.Array,
    lecturer: jax.Array,
    num_students: int,
    num_lecturers: int,
) -> None:
    """Whether a lecture is rated well, given the student who rates and the lecturer.

    Parameters
    ----------
    y
        1 for a rating of 4 or 5, 0 for 1 to 3; one per rating.
    service
        1 for a lecture held for a department other than the lecturer's own, else 0.
    student
        Student who gave the rating, 0 to ``num_students - 1``.
    lecturer
        Lecturer who got it, 0 to ``num_lecturers - 1``.
    num_students, num_lecturers
        Number of students and of lecturers.
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    beta_service = numpyro.sample("beta_service", dist.Normal(0.0, 10.0**0.5))
    tau_s = numpyro.sample("tau_s", dist.Gamma(3.0, 3.0))  # precisions
    tau_d = numpyro.sample("tau_d", dist.Gamma(3.0, 3.0))
    sigma_s = numpyro.deterministic("sigma_s", tau_s**-0.5)
    sigma_d = numpyro.deterministic("sigma_d", tau_d**-0.5)
    with numpyro.plate("student", num_students):
        s = numpyro.sample("s", dist.Normal(0.0, sigma_s))
    with numpyro.plate("lecturer", num_lecturers):
        d = numpyro.sample("d", dist.Normal(0.0, sigma_d))
    with numpyro.plate("rating", len(y)):
        logits = mu + beta_service * service + s[student] + d[lecturer]
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def linear(
    y: jax.Array,
    service: jax.Array,
    student: jax.Array,
    lecturer: jax.Array,
    department: jax.Array,
    num_students: int,
    num_lecturers: int,
    num_departments: int,
) -> None:
    """Rate a lecture, given the student who rates, the lecturer and the department.

    Parameters
    ----------
    y
        Rating, 1 (poor) to 5 (very good).
    service, student, lecturer, num_students, num_lecturers
        As for :func:`insteval`.
    department
        Department of the lecture, 0 to ``num_departments - 1``.
    num_departments
        Number of departments.
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    beta_service = numpyro.sample("beta_service", dist.Normal(0.0, 10.0**0.5))
    sigma_s = numpyro.sample("sigma_s", dist.HalfNormal(1.0))
    sigma_d = numpyro.sample("sigma_d", dist.HalfNormal(1.0))
    sigma_dept = numpyro.sample("sigma_dept", dist.HalfNormal(1.0))
    sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(2.0))
    with numpyro.plate("student", num_students):
        s = numpyro.sample("s", dist.Normal(0.0, sigma_s))
    with numpyro.plate("lecturer", num_lecturers):
        d = numpyro.sample("d", dist.Normal(0.0, sigma_d))
    with numpyro.plate("department", num_departments):
        dept = numpyro.sample("dept", dist.Normal(0.0, sigma_dept))
    with numpyro.plate("rating", len(y)):
        mean = mu + beta_service * service + s[student] + d[lecturer] + dept[department]
        numpyro.sample("y", dist.Normal(mean, sigma_y), obs=y)


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns s, d, service and y, for the logistic model.

    Parameters
    ----------
    path
        The file, one row per rating, with the column names of R's InstEval: ``y`` is the rating
        from 1 to 5. ``.gz`` is decompressed.

    Returns
    -------
    dict
        Arguments of :func:`insteval`. Students (``s``) and lecturers (``d``) are numbered in the
        sorted order of their labels.
    """
    frame = _read(path, COLUMNS)
    return {"y": (frame["y"].to_numpy() >= GOOD).astype(np.int32), **_shared(frame)}


def load_linear(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns s, d, dept, service and y, for the linear model.

    Parameters
    ----------
    path
        As for :func:`load`; ``dept`` is the department.

    Returns
    -------
    dict
        Arguments of :func:`linear`.
    """
    frame = _read(path, (*COLUMNS, "dept"))
    departments, department = np.unique(frame["dept"].to_numpy(), return_inverse=True)
    return {
        "y": frame["y"].to_numpy(dtype=float),
        **_shared(frame),
        "department": department.astype(np.int32),
        "num_departments": len(departments),
    }


def _shared(frame: Any) -> dict[str, Any]:
    """Return the arguments that the two models share."""
    students, student = np.unique(frame["s"].to_numpy(), return_inverse=True)
    lecturers, lecturer = np.unique(frame["d"].to_numpy(), return_inverse=True)
    return {
        "service": frame["service"].to_numpy(dtype=float),
        "student": student.astype(np.int32),
        "lecturer": lecturer.astype(np.int32),
        "num_students": len(students),
        "num_lecturers": len(lecturers),
    }


def _read(path: Path | str, columns: Sequence[str]) -> Any:
    """Return the columns as a pandas frame, none of them missing or with missing values."""
    import pandas as pd

    frame = vr.read_columns(path, columns, model="insteval", whole=True)
    for name in frame.columns.intersection(["service", "y"]):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"{path}: column {name} should hold numbers")
    return frame


def data() -> dict[str, Any]:
    """Return the 73,421 ratings by 2,972 students of 1,128 lecturers, good or not."""
    return load(SHIPPED)


def data_linear() -> dict[str, Any]:
    """Return the 73,421 ratings as they are, with the 14 departments."""
    return load_linear(SHIPPED)


def coords(
    lecturer: jax.Array, num_students: int, num_lecturers: int, **_: Any
) -> dict[str, list[int]]:
    """Label students by number from one, and lecturers by R's numbers for the shipped data.

    R's lecturers are numbered with gaps. The shipped data are known by who was rated in which row.
    """
    labels, shipped = np.unique(_read(SHIPPED, ["d"])["d"].to_numpy(), return_inverse=True)
    known = np.array_equal(np.asarray(lecturer), shipped)
    return {
        "student": list(range(1, num_students + 1)),
        "lecturer": labels.tolist() if known else list(range(1, num_lecturers + 1)),
    }


CITATION = (
    "Data: InstEval of the R package lme4, Bates, Maechler, Bolker and Walker (2015), Fitting "
    "Linear Mixed-Effects Models Using lme4, Journal of Statistical Software 67(1), "
    "doi:10.18637/jss.v067.i01"
)

MODEL = vr.Model(
    function=insteval,
    name="insteval",
    data=data,
    load=load,
    parameters=("mu", "beta_service", "tau_s", "tau_d"),
    latents=("s", "d"),
    dims={"s": ("student",), "d": ("lecturer",)},
    coords=coords,
    description="Logistic regression of 73,421 ratings with students crossed with lecturers.",
    citation=f"{CITATION}; priors as in Giordano, Broderick and Jordan (2018), JMLR 19(51), "
    "section 5.3",
)

LINEAR = vr.Model(
    function=linear,
    name="insteval_linear",
    data=data_linear,
    load=load_linear,
    parameters=("mu", "beta_service", "sigma_s", "sigma_d", "sigma_dept", "sigma_y"),
    latents=("s", "d", "dept"),
    dims={"s": ("student",), "d": ("lecturer",), "dept": ("department",)},
    coords=coords,
    description="Linear mixed model of 73,421 ratings: students, lecturers and departments.",
    citation=CITATION,
)

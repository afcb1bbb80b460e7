"""InstEval, students crossed with lecturers, beside lme4 and glmmTMB.

Real data, 73,421 ratings by 2,972 students of 1,128 lecturers. Two models: the ratings as they are,
with departments as a third family (linear), and whether a rating is good (logistic). Every line is
a fresh process, timed from outside.

    python benchmarks/insteval.py [--only linear,logistic] [--no-peers] [--repeats 3]

The peers maximise a likelihood with the random effects integrated out: exactly in the linear model,
by Laplace's approximation (nAGQ = 1) or a cruder one (nAGQ = 0) in the logistic one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import common
from common import Row

FOLDER = common.ROOT / "models" / "insteval"
METHODS = ("map", "meanfield", "lrvb")
CROSSED = "(1 | s) + (1 | d)"


@dataclass(frozen=True)
class Problem:
    """A model of ours and the same in R.

    Parameters
    ----------
    model
        As ``vi-recipes`` takes it.
    formula, groups
        The same in R's notation, and its factors.
    peers
        Row -> R package and its options.
    parameters
        Those to show: ours, and what R calls them.
    """

    model: str
    formula: str
    groups: tuple[str, ...]
    peers: dict[str, tuple[str, ...]]
    parameters: dict[str, str]


PROBLEMS = {
    "linear": Problem(
        f"{FOLDER / 'model.py'}:LINEAR",
        f"y ~ service + {CROSSED} + (1 | dept)",
        ("s", "d", "dept"),
        {"lmer, REML = FALSE": ("lme4",), "glmmTMB": ("glmmTMB",)},
        {
            "mu": "(Intercept)",
            "beta_service": "service",
            "sigma_s": "sd(s)",
            "sigma_d": "sd(d)",
            "sigma_dept": "sd(dept)",
            "sigma_y": "sd(residual)",
        },
    ),
    "logistic": Problem(
        "insteval",
        f"I(y >= 4) ~ service + {CROSSED}",
        ("s", "d"),
        {
            "glmer, nAGQ = 0": ("lme4", "family=binomial", "nAGQ=0"),
            "glmer, nAGQ = 1": ("lme4", "family=binomial", "nAGQ=1"),
            "glmer, nAGQ = 1, bobyqa": ("lme4", "family=binomial", "nAGQ=1", "optimizer=bobyqa"),
            "glmmTMB": ("glmmTMB", "family=binomial"),
        },
        {
            "mu": "(Intercept)",
            "beta_service": "service",
            "sigma_s": "sd(s)",
            "sigma_d": "sd(d)",
        },
    ),
}


def fit_twice(name: str) -> None:
    """Fit each method twice to one target; the second time nothing is compiled."""
    import vi_recipes as vr

    problem = PROBLEMS[name]
    target = vr.Target(vr.load_model(problem.model))
    rows, estimates = [], {}
    for method in (vr.MAP(), vr.MeanField(), vr.LinearResponse()):
        first, second = (method.fit(target, key=0) for _ in range(2))
        note = f"{second.status.name.lower()}, {second.timing.hvp_evaluations} products"
        row = Row(f"{method.name}, second fit", note=note)
        if second.has_result:
            row = Row(
                row.name,
                compile=first.timing.compile_seconds,
                fit=second.timing.run_seconds,
                note=row.note,
            )
            mean, sd = second.mean(), second.sd()
            estimates[method.name] = {
                theirs: [float(mean[ours]), float(sd[ours])]
                for ours, theirs in problem.parameters.items()
            }
        rows.append(row)
    common.emit(rows, estimates)


def run(name: str, peers: bool, repeats: int, time_limit: float) -> None:
    """Measure one model and print its tables."""
    problem = PROBLEMS[name]
    estimates: dict[str, Any] = {}

    def compare(methods: Sequence[str]) -> Row:
        return common.compare(
            problem.model, ",".join(methods), repeats=repeats, time_limit=time_limit
        )

    rows = [compare(METHODS), compare(METHODS[-1:])]
    twice = common.measure(
        common.worker(__file__, "fit_twice", name), repeats=repeats, time_limit=2 * time_limit
    )
    rows += [twice.row("one process, each method twice"), *common.collect(twice, estimates)]
    for peer, (package, *options) in problem.peers.items() if peers else ():
        rows.append(
            common.mixed_model(
                peer, package, FOLDER / "data.csv.gz", problem.formula, problem.groups,
                estimates, *options, repeats=repeats, time_limit=time_limit,
            )
        )  # fmt: skip
    print(f"\n{name}: {problem.formula}")
    common.print_costs(rows, "`vi-recipes compare` lrvb", "lrvb, second fit")
    common.print_estimates("Estimates, with their standard deviations", estimates)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PROBLEMS), help="models, of %(default)s")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--repeats", type=int, default=1, help="processes per line; the median")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds per process")
    options = parser.parse_args()
    names = common.chosen(parser, options.only, PROBLEMS)
    common.heading("InstEval: 73,421 ratings, 2,972 students, 1,128 lecturers, 14 departments")
    for name in names:
        run(name, not options.no_peers, options.repeats, options.time_limit)
    print(common.load())


if __name__ == "__main__":
    if not common.is_worker({"fit_twice": fit_twice}):
        main()

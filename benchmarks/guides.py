"""Errors of SVI's guides with default settings on eleven models with reference answers.

    python benchmarks/guides.py [FOLDER] [--only radon,seeds] [--guides normal] [--write]

What is found is kept, model by model and guide by guide, in ``guides.json`` beside this file, and
not computed again while it is there (``--again`` does so). ``--write`` puts the table of all that
is kept into ``docs/guides.md``. Data and answers of election88, sesame_street, ecology_cjs,
gaussian_mixture_1d, german_credit and hmm_normal do not ship and need FOLDER, in the form that
``accuracy.py`` describes; without it these six are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accuracy
import common
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.comparison import from_lists

KEPT = Path(__file__).with_name("guides.json")
DOCS = common.ROOT / "docs" / "guides.md"
BOUNDS = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)
GUIDES = ("normal", "multivariate_normal")

Record = dict[str, Any]


def german_credit(X: jax.Array, y: jax.Array) -> None:
    """Logistic regression with standard normal weights."""
    prior = dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1)
    weights = numpyro.sample("weights", prior)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=X @ weights), obs=y)


def hmm_normal(y: jax.Array) -> None:
    """Two hidden states with ordered means and unit noise, and no weights for the first state."""
    even = dist.Dirichlet(jnp.ones(2))
    A = jnp.log(jnp.stack([numpyro.sample("theta1", even), numpyro.sample("theta2", even)]))
    ordered = dist.constraints.positive_ordered_vector
    mu = numpyro.sample("mu", dist.ImproperUniform(ordered, (), (2,)))
    numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emitted = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(alpha: jax.Array, now: jax.Array) -> tuple[jax.Array, None]:
        return now + logsumexp(alpha[:, None] + A, axis=0), None

    alpha, _ = jax.lax.scan(forward, emitted[0], emitted[1:])
    numpyro.factor("y", logsumexp(alpha))


def plain(name: str, data: Mapping[str, Any]) -> tuple[vr.Model, dict[str, Any]]:
    """Return the model and the arguments of a problem that no shipped model's ``load`` reads."""
    y = np.array(data["label" if name == "german_credit" else "y"], float)
    if name == "gaussian_mixture_1d":
        return vr.load_model(name), {"y": y}
    if name == "hmm_normal":
        return vr.Model(function=hmm_normal, name=name), {"y": y}
    X = np.array(data["features_standardised"], float)
    X = X if X.shape[1] == 25 else np.column_stack([X, np.ones(len(X))])
    return vr.Model(function=german_credit, name=name), {"X": X, "y": y}


PLAIN = ("gaussian_mixture_1d", "german_credit", "hmm_normal")
"""Problems that :func:`plain` knows."""

MODELS = ("eight_schools", "seeds", "cbpp", "radon", "penicillin", "election88", "sesame_street",
          "ecology_cjs", *PLAIN)  # fmt: skip


def problem(name: str, folder: Path | None) -> tuple[vr.Target, vr.Fit]:
    """Return the target and the answers that its fits are measured against."""
    if name not in PLAIN:
        return accuracy.problem(name, folder)
    assert folder is not None
    data, raw = (
        json.loads((folder / name / f"{what}.json").read_text(encoding="utf-8"))
        for what in ("data", "reference")
    )
    model, arguments = plain(name, data)
    target = vr.Target(model, **arguments)
    label = str if name == "german_credit" else None  # which counts from zero already
    return target, vr.load_reference(from_lists(raw, label), target)


def measure(target: vr.Target, reference: vr.Fit, guide: str) -> Record:
    """Fit a guide with default settings; return how it ended and how far off it is."""
    comparison = vr.compare(target, {guide: vr.SVI(guide=guide)}, reference=reference)
    fit = comparison[guide]
    found: Record = {
        "commit": current_commit(),
        "dim": target.dim,
        "status": fit.status.name,
        "message": fit.message,
        "steps": int(fit.diagnostics.get("num_steps", 0)),
    }
    if fit.has_result:
        table = comparison.accuracy().xs(guide, level="method").dropna(subset=["difference"])
        error, ratio = table["difference"].abs(), table["sd_ratio"]
        found |= {
            "worst": float(error.max()),
            "worst_of": str(error.idxmax()),
            "worst_mcse": float(table["difference_mcse"][error.idxmax()]),
            "median": float(error.median()),
            "sd": [float(ratio.median()), float(ratio.min()), float(ratio.max())],
            "khat": fit.diagnostics.get("khat"),
        }
    return found


def current_commit() -> str:
    """Return the commit of the library and the models, a plus where they differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(common.ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "vi_recipes", "models")
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def made_by(kept: Mapping[str, Mapping[str, Record]]) -> str:
    """Return which commits the rows were made by."""
    rows: dict[str, list[str]] = {}
    for name in MODELS:
        for guide, found in kept.get(name, {}).items():
            commit = found.get("commit", "one that was not recorded")
            rows.setdefault(commit, []).append(f"{name} {guide}")
    if len(rows) == 1:
        return f"All rows were made by the code of commit {next(iter(rows))}.\n"
    parts = "; ".join(f"{key}: {', '.join(names)}" for key, names in rows.items())
    return f"Rows were made by the code of several commits, {parts}.\n"


def lines(kept: Mapping[str, Mapping[str, Record]]) -> list[tuple[str, ...]]:
    """Return the body of the table."""
    body = []
    for name in MODELS:
        for guide, found in kept.get(name, {}).items():
            cells = [f"{name} ({found['dim']})", guide, found["status"], f"{found['steps']:,}"]
            if "worst" in found:
                middle, low, high = found["sd"]
                cells += [
                    f"{found['median']:.2f}",
                    f"{found['worst']:.2f} ± {found['worst_mcse']:.2f} ({found['worst_of']})",
                    f"{middle:.2f} ({low:.2f} to {high:.2f})",
                    "–" if found["khat"] is None else f"{found['khat']:.2f}",
                ]
            body.append(tuple(cells + ["–"] * (len(HEADER) - len(cells))))
    return body


HEADER = ("model (dim)", "guide", "status", "steps", "mean: median error",
          "mean: largest error", "sd ratio: median (range)", "khat")  # fmt: skip


def write(kept: Mapping[str, Mapping[str, Record]]) -> None:
    """Put the table into the docs."""
    rows = [HEADER, ("---",) * len(HEADER), *lines(kept)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{made_by(kept)}"
    text = DOCS.read_text(encoding="utf-8")
    if not BOUNDS.search(text):
        raise SystemExit(f"{DOCS} has no line '<!-- table -->' with its end: nowhere to write")
    DOCS.write_text(BOUNDS.sub(lambda m: m[1] + table + m[2], text), encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="answers and data that do not ship")
    parser.add_argument("--only", default=",".join(MODELS), help="models, %(default)s")
    parser.add_argument("--guides", default=",".join(GUIDES), help="%(default)s")
    parser.add_argument("--again", action="store_true", help="compute what is kept once more")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    kept: dict[str, dict[str, Record]] = {}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
    common.heading("SVI's guides, default settings, against reference answers")
    for name in common.chosen(parser, options.only, dict.fromkeys(MODELS)):
        if name not in accuracy.SHIPPED and options.folder is None:
            print(f"{name}: left out, for want of a folder")
            continue
        wanted = [
            g for g in options.guides.split(",") if options.again or g not in kept.get(name, {})
        ]
        if not wanted:
            continue
        target, reference = problem(name, options.folder)
        for guide in wanted:
            kept.setdefault(name, {})[guide] = measure(target, reference, guide)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    common.print_table(HEADER, lines(kept))
    print(common.load())
    if options.write:
        write(kept)


if __name__ == "__main__":
    main()

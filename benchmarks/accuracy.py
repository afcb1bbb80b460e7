"""How far Laplace, mean field and linear response are from reference answers.

Errors of posterior means in reference sds, and sds as multiples of the reference's, for models with
random effects whose answers were computed by quadrature and importance sampling.

    python benchmarks/accuracy.py [FOLDER] [--only radon,seeds]

Data and answers that ship with the models are used as they are. election88 and sesame_street ship
without them and need FOLDER, in which ``<name>/data.json`` is what the model's ``load`` reads and
``<name>/reference.json`` has the lists ``parameters``, ``mean``, ``sd`` and ``mcse_mean``, with
labels that count from one; without FOLDER they are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import numpy as np

import vi_recipes as vr
from vi_recipes.comparison import problems

GROUPS = {
    "Logistic and binomial": ("election88", "seeds", "cbpp"),
    "Normal": ("radon", "sesame_street", "penicillin"),
}
SHIPPED = ("seeds", "cbpp", "radon", "penicillin", "eight_schools")
"""Data and answers of these are in the project."""

METHODS = {
    "Laplace": vr.Laplace(),
    "mean_field": vr.MeanField(),
    "linear_response": vr.LinearResponse(),
}
COLUMNS = {
    "mean: Laplace": ("Laplace", "difference"),
    "mean: mean field": ("mean_field", "difference"),  # and linear response, which keeps them
    "sd: Laplace": ("Laplace", "sd_ratio"),
    "sd: mean field": ("mean_field", "sd_ratio"),
    "sd: linear response": ("linear_response", "sd_ratio"),
}
"""Header -> method and column of its accuracy."""


def problem(name: str, folder: Path | None) -> tuple[vr.Target, vr.Fit]:
    """Return the target and the answers that its fits are measured against."""
    return problems(folder)[name]()


def rows(name: str, folder: Path | None) -> tuple[list[tuple[str, ...]], list[str]]:
    """Fit a model by every method; return its lines of the table, and why a method has none."""
    target, reference = problem(name, folder)
    comparison = vr.compare(target, METHODS, reference=reference)
    # by site, so that the scalars of the latent variables come together
    sizes = [int(np.prod(site.shape)) for site in reference.sites]
    site_of = np.repeat([site.name for site in reference.sites], sizes)
    labels = np.array(reference.labels())
    mean, sd = reference.flat(reference.mean()), reference.flat(reference.sd())
    table = comparison.accuracy()
    found = {
        method: table.xs(method, level="method").reindex(labels)
        for method, fit in comparison.items()
        if fit.has_result
    }

    def line(what: str, which: np.ndarray) -> tuple[str, ...]:
        alone = which.sum() == 1
        cells = [name, what, f"{mean[which][0]:.3g} ({sd[which][0]:.2g})" if alone else ""]
        for method, column in COLUMNS.values():
            if method not in found:
                cells.append(comparison[method].status.name)
                continue
            values = found[method][column].to_numpy()[which]
            cells.append(spread(values, "{:+.2f}" if column == "difference" else "{:.2f}"))
        return tuple(cells)

    known = np.isfinite(mean)
    lines = [
        line(str(labels[k]), np.arange(len(labels)) == k)
        for k in np.flatnonzero(known & ~np.isin(site_of, target.model.latents))
    ]
    for site in target.model.latents:
        which = known & (site_of == site)
        lines.append(line(f"{site} ({which.sum()}): median, range", which))
    reasons = [
        f"{name}, {method.replace('_', ' ')}: {fit.status.name}. {fit.message}"
        for method, fit in comparison.items()
        if fit.status is not vr.Status.OK
    ]
    return lines, reasons


def spread(values: np.ndarray, form: str) -> str:
    """Return one number, or the median and the range of several."""
    middle = form.format(np.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(values.min())} to {form.format(values.max())})"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="answers and data that do not ship")
    names = [name for group in GROUPS.values() for name in group]
    parser.add_argument("--only", default=",".join(names), help="models, %(default)s")
    options = parser.parse_args()
    wanted = common.chosen(parser, options.only, dict.fromkeys(names))
    absent = [n for n in wanted if n not in SHIPPED and options.folder is None]
    common.heading("Errors of means in reference sds; sds over the reference's")
    if absent:
        print(f"Left out, for want of a folder: {', '.join(absent)}")
    header = ["model", "parameter", "reference (sd)", *COLUMNS]
    for group, members in GROUPS.items():
        results = [rows(n, options.folder) for n in members if n in wanted and n not in absent]
        if not results:
            continue
        print(f"\n{group}")
        common.print_table(header, [line for lines, _ in results for line in lines])
        for reason in (reason for _, reasons in results for reason in reasons):
            print(reason)


if __name__ == "__main__":
    main()

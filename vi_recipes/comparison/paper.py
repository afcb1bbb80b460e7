"""What a paper says of a comparison: a paragraph to adapt, and what it cites."""

from __future__ import annotations

from collections.abc import Sequence

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.recommend import recommend
from vi_recipes.comparison.view import select
from vi_recipes.fit import Fit
from vi_recipes.methods import REFERENCES, SOURCES, bibtex
from vi_recipes.report import Block, Copied, Notes, listed

NUMPYRO = "phan2019composable"
WEIGHTS = "vehtari2024pareto"
CHAINS = "vehtari2021rank"


def paper(comparison: Fits) -> Sequence[Block]:
    """Return the paragraph, and the BibTeX of what it cites."""
    text, cited = paragraph(comparison)
    return (
        Notes("For a paper", [text]),
        Copied(
            "Sources",
            "The paragraph says what was done here: adapt it, and cite what you keep.",
            "BibTeX of what it cites",
            bibtex(cited),
            "bibtex",
        ),
    )


def paragraph(comparison: Fits) -> tuple[str, list[str]]:
    """Return what was done, as a paragraph, and the keys of what it cites, in order."""
    cited = [NUMPYRO]
    fits = comparison.fits
    labels, _ = select(comparison)
    named = []
    for name, fit in fits.items():
        source = SOURCES.get(fit.kind)
        if source is None:  # a method of the user's own
            named.append(name)
            continue
        cited += source.cited
        also = "" if name == fit.kind else f"{name}, "
        named.append(f"{source.phrase} ({also}{_in_text(source.cited)})")
    first = next(iter(fits.values()))
    record = first.provenance
    versions = record.versions
    own = f" {versions['vi_recipes']}" if "vi_recipes" in versions else ""
    numpyro = f"NumPyro {versions['numpyro']}" if "numpyro" in versions else "NumPyro"
    many = len(labels) != 1
    parts = [
        f"We fitted the model {comparison.target_name}, written in {numpyro} "
        f"({_in_text([NUMPYRO])}) and with {len(labels):,} parameter{'s' if many else ''}, with "
        f"vi_recipes{own} by {listed(named)}."
    ]
    said, more = _judged(comparison)
    parts += said
    cited += more
    found = recommend(comparison)
    if found.best is not None:
        wrong = f" ({found.best.wrong})" if found.best.wrong else ""
        parts.append(f"We report the results of {found.best.method}{wrong}.")
    seed = "" if record.seed is None else f"; the seed was {record.seed}"
    device = f" on {record.device}" if record.device else ""
    if record.dtype:
        parts.append(f"Computations{device} were in {record.dtype}{seed}.")
    return " ".join(parts), list(dict.fromkeys(cited))


def _judged(comparison: Fits) -> tuple[list[str], list[str]]:
    """Return what the fits were judged by, as sentences, and what these cite."""
    name, reference = comparison.reference_name, comparison.reference
    parts, cited = [], list[str]()
    if reference is not None and name is not None and comparison.measures:
        parts.append(
            f"Means and standard deviations were compared with those of {name}, in units of its "
            "standard deviations and beside the Monte Carlo errors of the comparison."
        )
    sampler = next((fit for fit in comparison.columns.values() if fit.is_sampler), None)
    if sampler is not None and (said := _chains(sampler)):
        parts.append(f"{said} ({_in_text([CHAINS])}).")
        cited.append(CHAINS)
    weighed = [n for n, f in comparison.fits.items() if f.assessment and f.assessment.num_draws]
    if weighed:
        parts.append(
            f"Draws of {listed(weighed)} were weighed by the posterior's density with "
            f"Pareto-smoothed importance sampling ({_in_text([WEIGHTS])})."
        )
        cited.append(WEIGHTS)
    return parts, cited


def _chains(sampler: Fit) -> str:
    """Return how long a sampler ran and what its diagnostics are; empty where that is not kept."""
    config, found = sampler.config, sampler.diagnostics
    if not all(isinstance(config.get(k), int) for k in ("num_chains", "num_warmup", "num_samples")):
        return ""
    text = (
        f"{sampler.method} ran {config['num_chains']} chains of {config['num_samples']:,} draws "
        f"after {config['num_warmup']:,} of warm-up"
    )
    if "r_hat_max" in found and "ess_bulk_min" in found:
        text += (
            f"; R-hat was at most {found['r_hat_max']:.3f} and the bulk effective sample size at "
            f"least {found['ess_bulk_min']:,.0f}"
        )
    return text


def _in_text(keys: Sequence[str]) -> str:
    return "; ".join(REFERENCES[key][0] for key in keys)

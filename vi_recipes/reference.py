"""Reference answers from outside: published posteriors, as a fit to compare against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vi_recipes.fit import Fit, provenance
from vi_recipes.posterior import MomentsPosterior
from vi_recipes.sites import site_labels
from vi_recipes.status import Status
from vi_recipes.target import Target


def load_reference(source: str | Path | Mapping[str, Any], target: Target) -> Fit:
    """Return reference answers as a :class:`Fit` of ``target``.

    Parameters
    ----------
    source
        A JSON file, or its content: ``{"source": how it was made, "parameters": {label: {"mean":
        ..., "sd": ..., "mcse": ...}}}`` with zero-based labels (``a[0]``) and values on the
        constrained scale. ``mcse`` is the Monte Carlo standard error of the mean, and may be left
        out.
    target
        Gives the sites; scalars without an answer are NaN.

    Raises
    ------
    ValueError
        For a file that is not such JSON, or labels the target does not have.
    """
    if isinstance(source, Mapping):
        content: Mapping[str, Any] = source
    else:
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"reference {source}: cannot be read as JSON ({error})") from None
    answers = content.get("parameters")
    if not isinstance(answers, Mapping):
        raise ValueError('reference: it has no "parameters" mapping of label to mean and sd')
    known = set(target.labels())
    if unknown := [label for label in answers if label not in known]:
        raise ValueError(
            f"reference: label(s) {', '.join(unknown[:5])} are not among the target's, such as "
            f"{', '.join(target.labels()[:5])}"
        )

    def column(key: str, default: float) -> dict[str, np.ndarray]:
        return {
            s.name: np.array(
                [answers.get(label, {}).get(key, default) for label in site_labels(s)], float
            ).reshape(s.shape)
            for s in target.quantities
        }

    means, sds, errors = column("mean", np.nan), column("sd", np.nan), column("mcse", 0.0)
    # mcse = sd / sqrt(ESS), and the error of an sd is about sd / sqrt(2 ESS)
    errors_sd = {name: error / np.sqrt(2) for name, error in errors.items()}
    return Fit(
        method="reference",
        status=Status.OK,
        message=str(content.get("source", "")),
        sites=target.quantities,
        coords=target.coords,
        posterior=MomentsPosterior(means, sds, mcse_means=errors, mcse_sds=errors_sd),
        provenance=provenance(target, seed=None, dtype="float64"),
    )

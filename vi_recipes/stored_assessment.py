"""Assessments in the files of fits."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vi_recipes.fit.differences import Moments
from vi_recipes.fit.fit import LogEvidence
from vi_recipes.groups import read_group, write_group
from vi_recipes.importance.stein import KernelStein
from vi_recipes.importance.wasserstein import WassersteinBounds
from vi_recipes.trust.assess import Assessment
from vi_recipes.trust.correct import Correction

if TYPE_CHECKING:
    import xarray as xr

HEADER = "vi_recipes_assessment"
_MOMENTS = ("mean", "sd", "mcse_mean", "mcse_sd")


def write_assessment(tree: xr.DataTree, assessment: Assessment) -> None:
    """Add an assessment to a fit's tree."""
    header: dict[str, Any] = {
        "num_draws": assessment.num_draws,
        "khat": assessment.khat,
        "block_khat": dict(assessment.block_khat),
        "evidence": [asdict(e) for e in assessment.evidence],
        "bounds": assessment.bounds and asdict(assessment.bounds),
        "stein": assessment.stein and asdict(assessment.stein),
        "unknown": dict(assessment.unknown),
        "seconds": assessment.seconds,
    }
    groups = {"response_ratio": assessment.response_ratio}
    if (found := assessment.correction) is not None:
        header["correction"] = {"khat": found.khat, "ess": found.ess, "rounds": found.num_rounds}
        groups |= {f"corrected_{name}": getattr(found.moments, name) for name in _MOMENTS}
    for group, values in groups.items():
        write_group(tree, group, values)
    tree.attrs[HEADER] = json.dumps(header)


def read_assessment(tree: xr.DataTree) -> Assessment | None:
    """Return the assessment in a fit's tree, ``None`` where there is none."""
    if HEADER not in tree.attrs:
        return None

    header = json.loads(tree.attrs[HEADER])
    correction = None
    if about := header.pop("correction", None):
        moments = Moments(*(read_group(tree, f"corrected_{name}") for name in _MOMENTS))
        correction = Correction(moments, about["khat"], about["ess"], about["rounds"])
    bounds, stein = header.pop("bounds"), header.pop("stein")
    return Assessment(
        **{**header, "evidence": tuple(LogEvidence(**e) for e in header["evidence"])},
        correction=correction,
        bounds=WassersteinBounds(**bounds) if bounds else None,
        stein=KernelStein(**stein) if stein else None,
        response_ratio=read_group(tree, "response_ratio"),
    )

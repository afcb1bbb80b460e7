"""vi_recipes: fit one NumPyro model by every inference method that applies, side by side.

Start with :class:`Target` (a model conditioned on data), :func:`compare` (several methods on one
target) and the methods: :class:`MAP`, :class:`Laplace`, :class:`EM`,
:class:`MarginalMLE`, :class:`VariationalEM`, :class:`CAVI`, :class:`MeanField`,
:class:`LinearResponse`, :class:`SVI`, :class:`ForwardKL`, :class:`SVGD`, :class:`NUTS`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vi_recipes.calibration import Calibration, calibrate
    from vi_recipes.comparison.fits import Comparison, compare
    from vi_recipes.comparison.study import Study
    from vi_recipes.core.status import FitError, Status
    from vi_recipes.core.timing import Timing
    from vi_recipes.data.batch_files import FileBatches, batches_from_csv, batches_from_parquet
    from vi_recipes.data.batches import Batches
    from vi_recipes.data.read import read_data, read_numeric
    from vi_recipes.fit.fit import Fit, LogEvidence, Provenance
    from vi_recipes.fit.loo import LOOError, compare_models, loo
    from vi_recipes.fit.predictions import log_likelihood, posterior_predictive
    from vi_recipes.fit.reference import load_reference
    from vi_recipes.latent.free_energy import FreeEnergy
    from vi_recipes.methods import (
        CAVI,
        EM,
        MAP,
        NUTS,
        SVGD,
        SVI,
        Amortised,
        ForwardKL,
        Laplace,
        LinearResponse,
        MarginalMLE,
        MeanField,
        Method,
        VariationalEM,
    )
    from vi_recipes.model.load import load_model, load_study
    from vi_recipes.model.model import EMSteps, Exchangeable, Model, PartialEStep, VBSteps
    from vi_recipes.model.sites import Site
    from vi_recipes.model.target import Target
    from vi_recipes.report.exhibit import Exhibit
    from vi_recipes.trust.assess import Assessment, assess
    from vi_recipes.trust.evidence import bridge, quadrature
    from vi_recipes.trust.sensitivity import case_sensitivity, data_sensitivity
    from vi_recipes.trust.verdict import Trust, Verdict, judge

_HOMES = {
    "vi_recipes.trust.assess": ("Assessment", "assess"),
    "vi_recipes.data.batch_files": ("FileBatches", "batches_from_csv", "batches_from_parquet"),
    "vi_recipes.data.batches": ("Batches",),
    "vi_recipes.calibration": ("Calibration", "calibrate"),
    "vi_recipes.comparison.fits": ("Comparison", "compare"),
    "vi_recipes.model.load": ("load_model", "load_study"),
    "vi_recipes.fit.loo": ("LOOError", "compare_models", "loo"),
    "vi_recipes.trust.evidence": ("bridge", "quadrature"),
    "vi_recipes.fit.fit": ("Fit", "LogEvidence", "Provenance"),
    "vi_recipes.latent.free_energy": ("FreeEnergy",),
    "vi_recipes.methods": (
        "CAVI",
        "EM",
        "MAP",
        "NUTS",
        "SVGD",
        "SVI",
        "Amortised",
        "ForwardKL",
        "Laplace",
        "LinearResponse",
        "MarginalMLE",
        "MeanField",
        "Method",
        "VariationalEM",
    ),
    "vi_recipes.model.model": ("EMSteps", "Exchangeable", "Model", "PartialEStep", "VBSteps"),
    "vi_recipes.fit.predictions": ("log_likelihood", "posterior_predictive"),
    "vi_recipes.data.read": ("read_data", "read_numeric"),
    "vi_recipes.fit.reference": ("load_reference",),
    "vi_recipes.report.exhibit": ("Exhibit",),
    "vi_recipes.trust.sensitivity": ("case_sensitivity", "data_sensitivity"),
    "vi_recipes.model.sites": ("Site",),
    "vi_recipes.core.status": ("FitError", "Status"),
    "vi_recipes.comparison.study": ("Study",),
    "vi_recipes.model.target": ("Target",),
    "vi_recipes.core.timing": ("Timing",),
    "vi_recipes.trust.verdict": ("Trust", "Verdict", "judge"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: help and lists then come at once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "CAVI",
    "EM",
    "MAP",
    "NUTS",
    "SVGD",
    "SVI",
    "Amortised",
    "Assessment",
    "Batches",
    "Calibration",
    "Comparison",
    "EMSteps",
    "Exchangeable",
    "Exhibit",
    "FileBatches",
    "Fit",
    "FitError",
    "ForwardKL",
    "FreeEnergy",
    "LOOError",
    "Laplace",
    "LinearResponse",
    "LogEvidence",
    "MarginalMLE",
    "MeanField",
    "Method",
    "Model",
    "PartialEStep",
    "Provenance",
    "Site",
    "Status",
    "Study",
    "Target",
    "Timing",
    "Trust",
    "VBSteps",
    "VariationalEM",
    "Verdict",
    "assess",
    "batches_from_csv",
    "batches_from_parquet",
    "bridge",
    "calibrate",
    "case_sensitivity",
    "compare",
    "compare_models",
    "data_sensitivity",
    "judge",
    "load_model",
    "load_reference",
    "load_study",
    "log_likelihood",
    "loo",
    "posterior_predictive",
    "quadrature",
    "read_data",
    "read_numeric",
]

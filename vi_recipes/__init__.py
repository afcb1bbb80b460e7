"""vi_recipes: fit one NumPyro model by every inference method that applies, side by side.

Start with :class:`Target` (a model conditioned on data), :func:`compare` (several methods on one
target) and the methods: :class:`MAP`, :class:`Laplace`, :class:`EM`,
:class:`MarginalMLE`, :class:`VariationalEM`, :class:`CAVI`, :class:`MeanField`,
:class:`LinearResponse`, :class:`StructuredVB`, :class:`SVI`, :class:`ForwardKL`, :class:`SVGD`,
:class:`Pathfinder`, :class:`NestedQuadrature`, :class:`NUTS`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vi_recipes.calibration import Calibration, calibrate
    from vi_recipes.comparison import (
        Comparison,
        Recommendation,
        Study,
        compare,
        derive,
        load_study,
    )
    from vi_recipes.core import (
        FitError,
        Hosts,
        MethodFailure,
        Status,
        Timing,
        join_hosts,
        use_cache,
    )
    from vi_recipes.data import (
        Batches,
        FileBatches,
        MemberBatches,
        batches_from_csv,
        batches_from_parquet,
        read_columns,
        read_data,
        read_frame,
        read_numeric,
        read_part,
    )
    from vi_recipes.fit import (
        Assessment,
        Fit,
        LOOError,
        Provenance,
        compare_models,
        from_arviz,
        from_draws,
        load_reference,
        log_likelihood,
        loo,
        posterior_predictive,
        prior_predictive,
    )
    from vi_recipes.formula import GLMM, Prediction, comparisons, glmm, predict, slopes
    from vi_recipes.importance import LogEvidence
    from vi_recipes.latent import FreeEnergy, LinearFactors
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
        NestedQuadrature,
        Pathfinder,
        StructuredVB,
        VariationalEM,
        normal_encoder,
        point_mass,
        random_start,
    )
    from vi_recipes.model import (
        EMSteps,
        Exchangeable,
        Model,
        PartialEStep,
        Site,
        Target,
        VBSteps,
        load_model,
        shard,
    )
    from vi_recipes.report import Exhibit
    from vi_recipes.sweeps import Sweep, sweep
    from vi_recipes.trust import (
        LowerBounds,
        Trust,
        Verdict,
        assess,
        bridge,
        case_sensitivity,
        data_sensitivity,
        judge,
        lower_bounds,
        quadrature,
    )

_HOMES = {
    "vi_recipes.calibration": (
        "Calibration",
        "calibrate",
    ),
    "vi_recipes.comparison": (
        "Comparison",
        "Recommendation",
        "Study",
        "compare",
        "derive",
        "load_study",
    ),
    "vi_recipes.core": (
        "FitError",
        "Hosts",
        "MethodFailure",
        "Status",
        "Timing",
        "join_hosts",
        "use_cache",
    ),
    "vi_recipes.data": (
        "Batches",
        "FileBatches",
        "MemberBatches",
        "batches_from_csv",
        "batches_from_parquet",
        "read_columns",
        "read_data",
        "read_frame",
        "read_numeric",
        "read_part",
    ),
    "vi_recipes.fit": (
        "Assessment",
        "Fit",
        "LOOError",
        "Provenance",
        "compare_models",
        "from_arviz",
        "from_draws",
        "load_reference",
        "log_likelihood",
        "loo",
        "posterior_predictive",
        "prior_predictive",
    ),
    "vi_recipes.formula": (
        "GLMM",
        "Prediction",
        "comparisons",
        "glmm",
        "predict",
        "slopes",
    ),
    "vi_recipes.importance": ("LogEvidence",),
    "vi_recipes.latent": (
        "FreeEnergy",
        "LinearFactors",
    ),
    "vi_recipes.methods": (
        "Amortised",
        "CAVI",
        "EM",
        "ForwardKL",
        "Laplace",
        "LinearResponse",
        "MAP",
        "MarginalMLE",
        "MeanField",
        "Method",
        "NestedQuadrature",
        "Pathfinder",
        "NUTS",
        "SVGD",
        "SVI",
        "StructuredVB",
        "VariationalEM",
        "normal_encoder",
        "point_mass",
        "random_start",
    ),
    "vi_recipes.model": (
        "EMSteps",
        "Exchangeable",
        "Model",
        "PartialEStep",
        "Site",
        "Target",
        "VBSteps",
        "load_model",
        "shard",
    ),
    "vi_recipes.report": ("Exhibit",),
    "vi_recipes.sweeps": (
        "Sweep",
        "sweep",
    ),
    "vi_recipes.trust": (
        "LowerBounds",
        "Trust",
        "Verdict",
        "assess",
        "bridge",
        "case_sensitivity",
        "data_sensitivity",
        "judge",
        "lower_bounds",
        "quadrature",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: help and lists then come at once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__version__ = "0.1.0"

__all__ = [
    "CAVI",
    "EM",
    "GLMM",
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
    "Hosts",
    "LOOError",
    "Laplace",
    "LinearFactors",
    "LinearResponse",
    "LogEvidence",
    "LowerBounds",
    "MarginalMLE",
    "MeanField",
    "MemberBatches",
    "Method",
    "MethodFailure",
    "Model",
    "NestedQuadrature",
    "PartialEStep",
    "Pathfinder",
    "Prediction",
    "Provenance",
    "Recommendation",
    "Site",
    "Status",
    "StructuredVB",
    "Study",
    "Sweep",
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
    "comparisons",
    "data_sensitivity",
    "derive",
    "from_arviz",
    "from_draws",
    "glmm",
    "join_hosts",
    "judge",
    "load_model",
    "load_reference",
    "load_study",
    "log_likelihood",
    "loo",
    "lower_bounds",
    "normal_encoder",
    "point_mass",
    "posterior_predictive",
    "predict",
    "prior_predictive",
    "quadrature",
    "random_start",
    "read_columns",
    "read_data",
    "read_frame",
    "read_numeric",
    "read_part",
    "shard",
    "slopes",
    "sweep",
    "use_cache",
]

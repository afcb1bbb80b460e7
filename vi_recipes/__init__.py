"""vi_recipes: fit one NumPyro model by every inference method that applies, side by side.

Start with :class:`Target` (a model conditioned on data), :func:`compare` (several methods on one
target) and the methods: :class:`MAP`, :class:`Laplace`, :class:`EM`, :class:`SVI`, :class:`NUTS`.
"""

from vi_recipes.comparison import Comparison, compare
from vi_recipes.content import load_model, load_study
from vi_recipes.fit import Fit, LogEvidence, Provenance
from vi_recipes.methods import EM, MAP, NUTS, SVI, Laplace, Method
from vi_recipes.model import EMSteps, Exchangeable, Model
from vi_recipes.read import read_data
from vi_recipes.reference import load_reference
from vi_recipes.sites import Site
from vi_recipes.status import FitError, Status
from vi_recipes.study import Study
from vi_recipes.target import Target
from vi_recipes.timing import Timing

__version__ = "0.1.0"

__all__ = [
    "EM",
    "MAP",
    "NUTS",
    "SVI",
    "Comparison",
    "EMSteps",
    "Exchangeable",
    "Fit",
    "FitError",
    "Laplace",
    "LogEvidence",
    "Method",
    "Model",
    "Provenance",
    "Site",
    "Status",
    "Study",
    "Target",
    "Timing",
    "compare",
    "load_model",
    "load_reference",
    "load_study",
    "read_data",
]

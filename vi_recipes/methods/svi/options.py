"""The options of stochastic variational inference, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, override

import numpy as np
import optax

from vi_recipes.core import (
    MOST,
    ByIdentity,
    Status,
    closest,
    require,
    require_count,
    require_number,
    unknown,
)
from vi_recipes.data import Batches
from vi_recipes.methods.base import Method
from vi_recipes.methods.guides.blocks import check_families
from vi_recipes.methods.guides.families import GUIDES
from vi_recipes.methods.guides.family import STEADY
from vi_recipes.methods.guides.making import default_step_size
from vi_recipes.methods.svi.objectives import (
    DEFAULT_ALPHA,
    OBJECTIVES,
    Objective,
    ObjectiveName,
)


@dataclass(frozen=True, kw_only=True)
class SVIOptions(Method):
    """Maximise the ELBO over a family of guides by stochastic gradients.

    The reported guide averages every tenth iterate of the second half of the run (Polyak-Ruppert
    averaging), whose batch means also give the standard error that the optimiser's noise leaves
    on every mean; the last iterate stands in where its ELBO is better. The message of a fit says
    whether its rule ended the run, or the steps did. With the ELBO of one particle the diagnostics
    have Pareto's ``khat`` of the guide's draws (:func:`vi_recipes.importance.weights.khat`).

    Averages of constant steps keep a bias in the guide's scales. So Adam's step size falls to a
    quarter once the iterates are stationary, or nearly so after half of the steps, and again while
    that still gains; the average is then of the last step size. On radon, with independent normals,
    the mean of sigma_a is 0.84 reference sds off with steps of 0.01 throughout and 0.55 with steps
    that fall from 0.04, the optimum being 0.34 off in a flat valley of the ELBO.

    Parameters
    ----------
    guide
        A name (``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``, ``"delta"``,
        ``"laplace"``, ``"iaf"``, ``"bnaf"``, ``"dais"``); a mapping of site patterns to families,
        as in ``{"beta*": "multivariate_normal", "tau": "gamma"}``; or any NumPyro autoguide class,
        autoguide or guide function. Each pattern makes a block of one of the families
        ``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``, ``"conditional_normal"``,
        ``"optimal_normal"``, ``"gamma"``, ``"beta"``, ``"dirichlet"``, ``"delta"`` and
        ``"amortised"`` (an encoder of rows); sites that no pattern matches are independent normals.
        Blocks are independent of each other, but for two: ``{"u": "conditional_normal"}`` lets the
        means of the local variables u move with the global ones, and ``{"u": "optimal_normal"}``
        finds their normals anew at every draw of these. What is reported of the latter is their
        optimum at the centre of the global variables, and linear in these.
    init
        Where guides are centred at first: ``"median"`` at the model's ``init``, else at prior
        medians; ``"map"`` at the mode of the density over the unconstrained scale, on which guides
        live. Where that has no maximum, or has collapsed, the default stands in and the message
        says so. A guide function, or a guide made by the user, begins where it says itself.
    num_starts
        Starting points in all, the first where ``init`` says and the others scattered, each with
        its own seed, one run after the other by the same compiled code. The one with the best
        objective, from fresh draws, is kept; the message says how many came up to it, and the trace
        has a row for each, the best first.
    num_steps
        Gradient steps of a run, at most. A run of them all has converged when the objective no
        longer rises by ``elbo_tolerance``, and the locations are stationary and known to
        ``tolerance``, as the rule of ``tolerance`` asks.
    tolerance
        A run stops sooner once its second half is stationary (split R-hat of the guide's
        locations below 1.1, the objective no longer rising) and the Monte Carlo error of every
        averaged location is below this many of the guide's sds. With a falling step size that is
        asked of the last, whose iterates scatter less: R-hat squared less one may then be larger
        by as much as the step size is smaller. ``None`` takes all steps at one step size, as
        guides without locations and scales do: points, flows, functions.
    elbo_tolerance
        What of the objective matters, in nats. A run counts as converged only if the last quarter
        of its steps gained at most so much on the second, known to a third of it: where the steps
        themselves do not tell, from fresh draws that both quarters' averages have in common, as
        many as that takes, 1,600 or a quarter of the steps at most. The final objective takes more
        than its 400 draws where that brings its error down to this.
    step_size
        Of Adam, for locations in units of their coordinates (:mod:`vi_recipes.model.units`): a
        number, from which it falls, or an optax schedule (step -> step size), which is kept to.
        ``None`` takes 0.04 where it falls, else 0.01, and 0.002 for ``"iaf"``. Ignored with
        ``optimizer``.
    optimizer
        Any optax gradient transformation; Adam by default.
    objective
        ``"elbo"`` (default) maximises E_q[log p - log q] by reparametrised gradients;
        ``"sticking"`` the same without the guide's score, which leaves no noise where the guide is
        exact; ``"score"`` by score-function gradients with a leave-one-out baseline; ``"renyi"``
        Renyi's bound of order ``alpha``; ``"iwae"`` the importance-weighted bound of
        ``num_particles`` draws; ``"wasserstein"`` minus the Sinkhorn divergence of the guide from
        its draws reweighted by p / q, by gradients that take none of the model. Only the ELBO and
        the importance-weighted bound are reported as lower bounds on the log evidence.
    alpha
        Order of Renyi's divergence, 1 excepted; ``None`` takes 0.5. Only with ``"renyi"``. From 0
        to 1 the bound has a value for every guide; above 1 it has none where the posterior's tails
        are far thinner than the guide's, below 0 where they are far thicker, and the fit says so.
    num_particles
        Draws for each gradient; ``None`` takes 1 for ``"elbo"`` and ``"sticking"``, 1,000 for
        ``"wasserstein"``, 10 for the others.
    batch_size
        Rows of the data in each step, of those in ``plate``; ``None`` takes all. Their log
        densities are scaled up, so that gradients are unbiased; every row comes once an epoch.
        Latent sites in the plate need ``"amortised"`` or ``"optimal_normal"`` guides. Where
        ``plate`` holds latent and no observed sites, the groups of the rows, it counts groups:
        each comes with all its rows.
    plate
        Plate whose rows are drawn, or whose members with their rows; ``None`` takes the one that
        holds all observed sites.
    batches
        Rows that need not fit in memory, in place of ``batch_size``: see
        :func:`batches_from_parquet`. The target then needs to hold a few rows only, and the
        sizes of what is not drawn.
    dtype
        ``"float64"`` or ``"float32"``.
    checkpoint
        A file to which the runs are written between chunks, every few seconds, and at the end or on
        Ctrl-C. A fit whose file exists goes on from there, to the answer that it would have had
        without the interruption; more steps, or another tolerance, may be asked for. A file of
        another model, data, guide, objective, optimiser, precision, start or seed is refused by a
        ``ValueError``.

    References
    ----------
    Kucukelbir, A. et al. (2017). Automatic differentiation variational inference. JMLR 18(14).
    Li, Y. and Turner, R. E. (2016). Renyi divergence variational inference. NeurIPS 29.
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    Ambrogioni, L. et al. (2018). Wasserstein variational inference. NeurIPS 31.
    Dhaka, A. et al. (2020). Robust, accurate stochastic optimization for variational inference.
    NeurIPS 33.
    """

    key: ClassVar[str] = "svi"

    guide: Any = "normal"
    init: Literal["median", "map"] = "median"
    num_starts: int = 1
    num_steps: int = 20_000
    tolerance: float | None = 0.05
    elbo_tolerance: float = 0.1
    step_size: float | Callable[[Any], Any] | None = None
    optimizer: optax.GradientTransformation | None = None
    objective: ObjectiveName = "elbo"
    alpha: float | None = None
    num_particles: int | None = None
    batch_size: int | None = None
    plate: str | None = None
    batches: Batches | None = None
    dtype: Literal["float64", "float32"] = "float64"
    checkpoint: str | Path | None = None

    @property
    @override
    def name(self) -> str:
        if self.guide == "normal":
            return self.key
        if isinstance(self.guide, Mapping):
            return f"{self.key}_structured"
        label = (
            self.guide
            if isinstance(self.guide, str)
            else getattr(self.guide, "__name__", type(self.guide).__name__)
        )
        return f"{self.key}_{label}"

    @property
    @override
    def dtype_used(self) -> str:
        return self.dtype

    @property
    @override
    def is_point(self) -> bool:
        return self.guide == "delta"

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        # a score-function gradient weighs draws by the density itself
        return None if self.settings.takes_score else Status.UNCONVERGED

    # -- what follows from them ------------------------------------------------------------------

    @property
    def settings(self) -> Objective:
        """The objective, with what it needs."""
        return OBJECTIVES[self.objective]

    @property
    def draws(self) -> int:
        """Draws for each gradient."""
        return self.num_particles or self.settings.num_particles

    @property
    def first_step_size(self) -> float | Callable[[Any], Any]:
        """Step size, from which it falls where it is a number, or its schedule."""
        if self.step_size is not None:
            return self.step_size
        size = default_step_size(self.guide)
        return size if self.tolerance is not None else min(size, STEADY)

    @property
    def falling(self) -> bool:
        """Whether the step size falls of itself."""
        return self.optimizer is None and not callable(self.first_step_size)

    @property
    def order(self) -> float:
        """Order of Renyi's divergence, where the objective has one."""
        return DEFAULT_ALPHA if self.alpha is None else self.alpha

    @property
    def step_key(self) -> Hashable:
        """What the code of a step depends on, but for the data: guide, optimiser, objective."""
        guide: Hashable
        if isinstance(self.guide, Mapping):
            guide = tuple((pattern, repr(family)) for pattern, family in self.guide.items())
        else:
            guide = self.guide if isinstance(self.guide, str) else ByIdentity(self.guide)
        size = None if self.optimizer is not None else self.first_step_size
        return (
            guide,
            ByIdentity(size) if callable(size) else size,
            None if self.optimizer is None else ByIdentity(self.optimizer),
            self.objective,
            self.order,
            self.draws,
            self.dtype,
        )

    # -- what they may be ------------------------------------------------------------------------

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.guide, str) and self.guide not in GUIDES:
            close = closest(self.guide, GUIDES)
            hint = f"; did you mean '{close}'?" if close else ""
            raise ValueError(
                f"guide: got '{self.guide}', expected one of {', '.join(GUIDES)}, a mapping of "
                f"site patterns to families, or a NumPyro guide{hint}"
            )
        require(
            isinstance(self.guide, str | Mapping) or callable(self.guide),
            "guide",
            self.guide,
            "a name, a mapping of site patterns to families, or a NumPyro guide",
        )
        if isinstance(self.guide, Mapping):
            check_families(self.guide)
        require_count("num_steps", self.num_steps)
        if self.tolerance is not None:
            require_number("tolerance", self.tolerance, most=1.0)
        require_number("elbo_tolerance", self.elbo_tolerance)
        require(
            _is_step_size(self.step_size),
            "step_size",
            self.step_size,
            "a positive number, or an optax schedule: step -> step size",
        )
        if self.init not in ("median", "map"):
            raise ValueError(unknown("init", str(self.init), ("median", "map")))
        require_count("num_starts", self.num_starts)
        require(
            isinstance(self.checkpoint, str | Path | None),
            "checkpoint",
            self.checkpoint,
            "the path of a file, or None",
        )
        if self.objective not in OBJECTIVES:
            raise ValueError(unknown("objective", str(self.objective), OBJECTIVES))
        fewest = self.settings.fewest_particles
        require(
            self.num_particles is None
            or (isinstance(self.num_particles, Integral) and fewest <= self.num_particles <= MOST),
            "num_particles",
            self.num_particles,
            f"an integer of at least {fewest} with objective='{self.objective}'",
        )
        ordered = " or ".join(repr(n) for n, o in OBJECTIVES.items() if o.takes_alpha)
        require(
            self.alpha is None
            or (self.settings.takes_alpha and self.alpha != 1 and _is_finite(self.alpha)),
            "alpha",
            self.alpha,
            f"an order other than 1, which is the ELBO, and only with objective={ordered}",
        )
        self._check_rows()
        require(self.dtype in ("float32", "float64"), "dtype", self.dtype, "'float32' or 'float64'")
        optimizer = self.optimizer
        require(
            optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")),
            "optimizer",
            optimizer,
            "an optax gradient transformation",
        )

    def _check_rows(self) -> None:
        """Raise a :class:`ValueError` unless the options of minibatches go together."""
        if self.batch_size is not None:
            require_count("batch_size", self.batch_size)
        require(
            self.batches is None or isinstance(self.batches, Batches),
            "batches",
            self.batches,
            "rows from batches_from_parquet or batches_from_csv, or an object with num_rows, "
            "batch_size and blocks",
        )
        require(
            self.batches is None or self.batch_size is None,
            "batch_size",
            self.batch_size,
            "None with batches, which have their own batch_size",
        )
        require(
            self.plate is None or self.batch_size is not None or self.batches is not None,
            "plate",
            self.plate,
            "None without batch_size or batches: all rows are used",
        )
        require(
            self.batches is None or self.init == "median",
            "init",
            self.init,
            "'median' with batches: a MAP takes all rows in memory",
        )


def _is_step_size(value: Any) -> bool:
    """Whether a value is a step size, a schedule of them, or ``None``."""
    if callable(value):
        try:
            return bool(np.isfinite(float(value(0))))
        except Exception:  # a user's function raises whatever it likes
            return False
    return value is None or (_is_finite(value) and float(value) > 0)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that is neither infinite nor NaN."""
    return isinstance(value, Real) and bool(np.isfinite(float(value)))

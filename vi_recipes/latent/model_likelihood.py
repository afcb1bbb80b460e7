"""What the end of a model's own EM is worth, by the likelihood of its NumPyro function."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import SAME
from vi_recipes.core import MethodFailure, Status, Timing
from vi_recipes.latent.edges import find_edge
from vi_recipes.latent.judge import Estimate, is_at_maximum, judge_estimate
from vi_recipes.latent.node_error import NumNodes
from vi_recipes.latent.objective import CLOSE, MAX_DENSE, MarginalObjective
from vi_recipes.latent.rules import marginal_of, starting_point
from vi_recipes.model import Target
from vi_recipes.posterior import PointPosterior

INSIDE = 1e-9
"""How far into its support an estimate at the edge is moved, where its slopes are finite."""


class ModelLikelihood:
    """The likelihood of a model's NumPyro function, by which the end of its own EM is judged.

    Parameters
    ----------
    target
        The model conditioned on data.
    num_nodes, with_prior
        See :class:`vi_recipes.latent.marginal.Marginal`.
    timing
        Charged with compilations.
    """

    def __init__(
        self, target: Target, num_nodes: NumNodes, with_prior: bool, timing: Timing
    ) -> None:
        self.target, self.timing = target, timing
        self._choices = num_nodes, with_prior
        self._choose()

    def _choose(self) -> None:
        """Choose how latent variables are integrated out, or say why none can be."""
        self.reason = ""
        self.objective: MarginalObjective | None = None
        try:
            marginal = marginal_of(self.target, None, "auto", *self._choices, self.timing)
        except MethodFailure as failure:
            self.reason = failure.message
            return
        if marginal.split.border.size > MAX_DENSE:
            self.reason = f"{marginal.split.border.size} parameters (at most {MAX_DENSE})"
            return
        self.start = starting_point(self.target, jax.random.key(0), 0)
        modes = self.start[marginal.split.local]
        self.objective = MarginalObjective(marginal, self.timing, modes)

    def is_at_maximum(self, point: dict[str, np.ndarray]) -> bool:
        """Whether a point is at the maximum, as far as can be told."""
        theta = self._locate(point)
        if isinstance(theta, str):
            return True
        assert self.objective is not None
        return is_at_maximum(self.objective, theta)

    def judge_end(self, point: dict[str, np.ndarray], log_likelihood: float) -> Estimate:
        """Say what is known at the point that EM ended at, which may be at an edge.

        Raises
        ------
        MethodFailure
            As :func:`vi_recipes.latent.judge.judge_estimate`.
        """

        def bare(reason: str, away: float = np.nan) -> Estimate:
            status = Status.UNCONVERGED if away > CLOSE else Status.OK
            message = f"no standard errors: {reason}"
            return Estimate(
                posterior=PointPosterior(point),
                status=status,
                message=message,
                decrement=away,
                log_likelihood=log_likelihood,
                latents={},
            )

        theta = self._locate(point)
        if isinstance(theta, str):
            return bare(theta)
        assert self.objective is not None
        if self.objective.misjudges(theta):
            self._choose()
            return self.judge_end(point, log_likelihood)
        curvature = self.objective.curvature(theta)
        edge = find_edge(self.objective, theta, curvature) if curvature is not None else None
        if edge is not None and edge.rise <= SAME:
            # the model itself says what has collapsed; any other edge is an estimate like others
            return bare(
                f"{edge.where}, where the likelihood is highest",
                self.objective.decrement(theta, edge.places),
            )
        return judge_estimate(self.objective, theta)

    def _locate(self, point: dict[str, np.ndarray]) -> Float[np.ndarray, " G"] | str:
        """Return theta on the unconstrained scale, or why there is none."""
        if self.objective is None:
            return self.reason
        split = self.objective.marginal.split
        known = {n: point[n] for n in split.parameters}
        if unknown := [n for n, value in known.items() if not np.isfinite(value).all()]:
            return f"EM gives no finite value of {', '.join(unknown)}"
        start = self.target.constrain(self.start)
        for share in (0.0, INSIDE):  # supports are convex
            inside = {n: (1 - share) * value + share * start[n] for n, value in known.items()}
            try:
                return self.target.unconstrain(start | inside)[split.border]
            except ValueError as error:
                reason = str(error)
        return f"the estimate is outside its support ({reason})"

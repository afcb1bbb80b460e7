"""What EM and MarginalMLE share: options, whether they apply, a judged maximum's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import MethodFailure, Status, Timing, require, require_count
from vi_recipes.latent import (
    Estimate,
    Marginal,
    MarginalObjective,
    NumNodes,
    Split,
    kinks_of,
    marginal_of,
    require_exact,
    where_none,
)
from vi_recipes.methods.base import Result
from vi_recipes.methods.coupled_likelihood import coupled_of
from vi_recipes.model import Target

PAST_KINKS = "use NUTS; or, from the flat side of a kink, start past it with Model(init=...)"
"""What to do where an ascent did not converge on a density with kinks."""


def check_options(method: object) -> None:
    """Check the options that EM and MarginalMLE have in common."""
    objective = getattr(method, "objective")  # noqa: B009
    require(objective in ("mle", "map"), "objective", objective, "'mle' or 'map'")
    require_count("max_steps", getattr(method, "max_steps"))  # noqa: B009
    for name in ("num_nodes", "num_starts"):
        value = getattr(method, name)
        if value != {"num_nodes": "auto", "num_starts": None}[name]:
            require_count(name, value)


def why_not(
    target: Target,
    latent: tuple[str, ...] | None,
    rule: str,
    num_nodes: NumNodes,
    *,
    objective: str,
    exact: bool = False,
    coupled: bool = False,
) -> str | None:
    """Return why no marginal likelihood, or no exact E-step, can be had; ``None`` if it can.

    Nor where no parameter is left that it would be a function of, or it is none of some. Latent
    variables that are ``coupled`` count where Laplace's approximation takes them.
    """
    try:
        with jax.enable_x64(True):
            choose = coupled_of if coupled else marginal_of
            marginal = choose(target, latent, rule, num_nodes, False, Timing())
            if exact:
                require_exact(marginal)
    except MethodFailure as failure:
        return failure.reason
    if not marginal.split.border.size:
        return (
            f"every latent site of model '{target.name}' is integrated out "
            f"({', '.join(marginal.split.latents)}): there is no parameter left to estimate. Name "
            "fewer (latent=...), or use Laplace or NUTS"
        )
    return _no_function_of(marginal.split) if objective == "mle" else None


def ascended[T](
    choose: Callable[[], Marginal],
    ascend: Callable[[Marginal], tuple[T, MarginalObjective, Float[np.ndarray, " G"]]],
) -> tuple[Marginal, T]:
    """Return how latent variables are integrated out, and what an ascent of that made.

    Members that count as normal near the start, and are not where it ends, are integrated out in
    another way: once more at most, because it is remembered what was seen.

    Parameters
    ----------
    choose
        Says how latent variables are integrated out.
    ascend
        Returns what it makes, the objective with the members' modes at its end, and theta there.
    """
    while True:
        marginal = choose()
        made, objective, end = ascend(marginal)
        if not objective.misjudges(end):
            return marginal, made


def _no_function_of(split: Split) -> str | None:
    """Return which parameters are in the priors of others alone; ``None`` where there are none.

    Such as the scale of a random walk that is a parameter itself, for want of a plate: with the
    priors of parameters the walk's law is left out, and nothing else has the scale.
    """
    if split.kind == "discrete":
        return None
    flows = {name: flow.whole.latents for name, flow in split.target.flows.densities.items()}
    has = frozenset().union(*(flow for name, flow in flows.items() if name not in split.parameters))
    idle = [name for name in split.parameters if name not in has]
    laws = [n for n in split.parameters if n in has and not flows[n].isdisjoint(idle)]
    if not laws:
        return None
    which = ", ".join(laws)
    return (
        f"the likelihood does not depend on {', '.join(idle)}: the prior of {which} does, and "
        f"priors of parameters are left out. If {which} is to be integrated out, say so "
        f"(latent={tuple(laws)!r}, or Model(latents=...)); NestedQuadrature, LinearResponse and "
        "NUTS integrate over parameters too"
    )


def no_likelihood(objective: MarginalObjective) -> MethodFailure:
    """Return the failure of a likelihood that is not finite where the search begins."""
    kinks = kinks_of(objective.marginal.split)
    return MethodFailure(
        Status.DIVERGED,
        f"the marginal likelihood is not finite at the start ({objective.marginal.describe()}): "
        "a member's log joint has no mode there with a positive-definite curvature"
        + (f"; {kinks}" if kinks else ", as where it has a kink (abs, max, where)"),
        where_none(objective.marginal.split),
    )


def with_more_nodes(num_nodes: NumNodes, marginal: Marginal, estimate: Estimate) -> Marginal | None:
    """Return the likelihood with more nodes, where the estimate needs them and may have them."""
    error = estimate.node_error
    if num_nodes != "auto" or error is None or error.small or error.others < error.num_nodes:
        return None
    return replace(marginal, num_nodes=error.others)


def result(
    estimate: Estimate,
    marginal: Marginal,
    path: Float[np.ndarray, "runs steps"],
    how: str,
    *,
    free_energy: bool = False,
) -> Result:
    """Return a method's result from a judged maximum and the path to it."""
    name = "log_posterior" if marginal.with_prior else "log_likelihood"
    name = "free_energy" if free_energy else name
    kinks = kinks_of(marginal.split)
    past = "; {}: a higher maximum may lie past one, where none is looked for"
    stuck = kinks and estimate.status is Status.UNCONVERGED
    return Result(
        estimate.posterior,
        estimate.status,
        f"{marginal.describe()}; log-likelihood {estimate.log_likelihood:.6f} after {how}; "
        f"{estimate.message}{kinks and past.format(kinks)}",
        PAST_KINKS if stuck else estimate.advice,
        trace={name: path, f"{name}_step": np.arange(path.shape[1])},
        diagnostics={
            "log_likelihood": estimate.log_likelihood,
            "newton_decrement": estimate.decrement,
            "iterations": float(path.shape[1]),
            **({} if marginal.is_exact else {"num_nodes": float(marginal.num_nodes)}),
        },
        log_likelihood=estimate.log_likelihood,
        latents=estimate.latents,
    )

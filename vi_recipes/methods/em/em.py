"""Expectation-maximisation for any model, by the model's closed forms or by weighted nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, override

import jax

from vi_recipes.core import (
    LOOSEST_RISE,
    SEVERAL,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
)
from vi_recipes.latent import RULES, EStepRule, NumNodes, split_target
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.em.closed_route import ClosedRoute
from vi_recipes.methods.em.general_route import GeneralRoute
from vi_recipes.methods.em.loop import Loop
from vi_recipes.methods.likelihood import check_options, why_not
from vi_recipes.model import EMSteps, Target

EMRule = Literal["auto", "closed_form", EStepRule]

MStep = Literal["auto", "newton", "l-bfgs"]


@dataclass(frozen=True, kw_only=True)
class EM(Method):
    """Coordinate ascent on the free energy: E-step over q(z), M-step over theta.

    The E-step is the model's closed form where it supplies one. Else it is made from the NumPyro
    model: enumeration of discrete latent variables, or forward-backward along chains of them;
    Gaussian cubature, exact where the log joint is quadratic in z (which is checked); or adaptive
    Gauss-Hermite quadrature for one to three scalars a member of a plate. The M-step is the model's
    closed form, else Newton's method on Q(theta). All starts run side by side in one compiled
    loop; the best is kept. The objective must not fall from one iteration to the next; if it does
    the fit has failed.

    Standard errors come from the observed information, the Hessian of the marginal log-likelihood
    by automatic differentiation.

    Parameters
    ----------
    latent
        Sites that are latent variables; see :func:`vi_recipes.latent.members.split_target`. By
        default those the model declares, else its discrete sites, else the sites in plates whose
        members do not touch one another given the rest.
    e_step
        ``"closed_form"``, ``"enumerate"``, ``"forward_backward"``, ``"gaussian"``,
        ``"quadrature"``, or ``"auto"``: the first of these that applies.
    num_nodes
        Nodes a dimension of quadrature; 1 is Laplace's approximation. ``"auto"`` begins with 9 and
        takes more until that moves the estimates by less than 0.1 standard errors, as
        :class:`MarginalMLE` does.
    objective
        ``"mle"`` maximises log p(y | theta), ``"map"`` adds the log prior over the parameters as
        the model names them.
    max_steps
        Iterations allowed.
    tolerance
        Rise of the objective in one iteration, relative to its size, that counts as none.
    num_starts
        Starting points in all, each with its own seed: those of the model's EM steps (k-means for
        mixtures), else its ``init`` or prior medians, then points scattered around ``init`` or
        around 0 on the unconstrained scale. By default 5 where a likelihood has several maxima
        (closed forms and discrete latent variables), else 1.
    accelerate
        Extrapolate by SQUAREM; what loses ground is not kept. An iteration then is three.
    num_blocks
        Blocks of members whose E-steps take turns (incremental EM), for closed forms that have
        partial E-steps and for enumerated states; 1 takes all members at once. A partial step
        renews q(z) for one block, keeps that of the others, and ends with an M-step, so that theta
        moves ``num_blocks`` times in a pass over the data. What must rise at every partial step is
        the free energy, which is checked and in the trace; the log-likelihood, which it bounds
        from below, need not, and is not evaluated. When a pass gains nothing more, iterations of
        full E-steps follow, on which the fit ends as it would without blocks: their log-likelihood
        must not fall, and ``accelerate`` is for them. Of enumerated states an M-step passes over
        all members, but where a few stand for them (:mod:`vi_recipes.latent.compression`): fewer
        passes of E-steps are then no fewer seconds.
    num_sparse
        Sparse E-steps after every full one, for enumerated states; 0 makes all of them full. A
        sparse one shares out anew, among a member's likely states, what the last full one gave
        them, and freezes the others as they were. The free energy must rise at each, which is
        checked and in the trace by passes over the data: the probabilities that were renewed, as a
        multiple of all of them. Full E-steps follow as they do with ``num_blocks``. Whole arrays
        are computed for either kind, so that fewer passes are no fewer seconds here.
    freeze_below
        Probability, at a full E-step, below which a state is frozen by the sparse ones after it.
    m_step
        How Q(theta) is maximised where the model supplies no closed form: ``"newton"``,
        ``"l-bfgs"``, or ``"auto"``: Newton, but L-BFGS beyond 300 parameters and where a few
        members stand for many thousands (:mod:`vi_recipes.latent.compression`), so that Q costs
        little.
    finish
        Whether Newton's method goes on, on the same likelihood, from where iterations made from
        the NumPyro model have not got to a maximum; the message says how many steps it took.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). JRSS B 39(1), 1-38.
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    """

    key: ClassVar[str] = "em"

    summary: ClassVar[str] = (
        "maximises the likelihood with latent variables summed or integrated out: enumeration, "
        "Gaussian or quadrature E-steps; standard errors from the observed information"
    )

    rules: ClassVar[Mapping[str, str]] = {
        "closed_form": (
            "the model supplies its own E-step and M-step, Model(em=EMSteps(...)), and latent is "
            "left as it is"
        ),
        **RULES,
    }

    integrates: ClassVar[bool] = True

    latent: tuple[str, ...] | None = None
    e_step: EMRule = "auto"
    num_nodes: NumNodes = "auto"
    objective: Literal["mle", "map"] = "mle"
    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_starts: int | None = None
    accelerate: bool = False
    num_blocks: int = 1
    num_sparse: int = 0
    freeze_below: float = 0.01
    m_step: MStep = "auto"
    finish: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        rules = get_args(EMRule)
        require(self.e_step in rules, "e_step", self.e_step, f"one of {', '.join(rules)}")
        require_number("tolerance", self.tolerance, most=LOOSEST_RISE)
        ways = get_args(MStep)
        require(self.m_step in ways, "m_step", self.m_step, f"one of {', '.join(ways)}")
        require_count("num_blocks", self.num_blocks)
        require_count("num_sparse", self.num_sparse, least=0)
        require_number("freeze_below", self.freeze_below, most=0.5)
        require(
            self.num_blocks == 1 or self.num_sparse == 0,
            "num_sparse",
            self.num_sparse,
            f"0, as num_blocks is {self.num_blocks}: E-steps are partial in one way at a time",
        )

    def _closed(self, target: Target) -> bool:
        """Whether the model's own steps are used."""
        asked = self.e_step == "closed_form" or (self.e_step == "auto" and self.latent is None)
        return asked and target.complete_model.em is not None

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        steps = target.complete_model.em
        if self._closed(target):
            assert steps is not None
            if self.objective == "map" and steps.log_prior is None:
                return f"model '{target.name}' supplies no log_prior for objective='map'"
            return self._why_not_partial(target, steps)
        if self.e_step == "closed_form":
            return (
                f"model '{target.name}' supplies no closed-form EM steps (Model(em=EMSteps(...)))"
            )
        reason = why_not(target, self.latent, self.e_step, self.num_nodes, objective=self.objective)
        if reason:
            return reason
        with jax.enable_x64(True):
            parts = split_target(target, self.latent)
        if parts.kind == "none":
            return (
                f"model '{target.name}' has no latent variables: it declares none "
                "(Model(latents=...)), supplies no closed-form EM steps (Model(em=EMSteps(...))), "
                "and no site in a plate is local. MarginalMLE maximises its likelihood; mean-field "
                "variational inference, Laplace and NUTS give a posterior"
            )
        if self._partial and (parts.kind != "discrete" or parts.chains):
            how = "a chain's" if parts.chains else "continuous"
            return (
                f"{self._partial}: partial E-steps are for closed forms and for the states of "
                f"independent members, and the latent variables {', '.join(parts.latents)} are "
                f"{how}. {self._leave}"
            )
        return self._why_few(parts.num_members)

    @property
    def _partial(self) -> str:
        """The option that makes E-steps partial, with its value; empty if none does."""
        if self.num_blocks > 1:
            return f"num_blocks={self.num_blocks}"
        return f"num_sparse={self.num_sparse}" if self.num_sparse else ""

    @property
    def _leave(self) -> str:
        return "Leave num_blocks at 1" if self.num_blocks > 1 else "Leave num_sparse at 0"

    def _why_not_partial(self, target: Target, steps: EMSteps) -> str | None:
        if not self._partial:
            return None
        if self.num_sparse or steps.partial is None:
            discrete = any(s.kind == "discrete" for s in target.sites.values())
            lacks = (
                "has steps that keep no table of its states' probabilities"
                if self.num_sparse
                else "supplies no E-step for some of its members "
                "(EMSteps(partial=PartialEStep(...)))"
            )
            other = ", or set e_step='enumerate'" if discrete else ""
            return f"{self._partial}: model '{target.name}' {lacks}. {self._leave}{other}"
        return self._why_few(steps.partial.num_members(**target.data))

    def _why_few(self, members: int) -> str | None:
        if self.num_blocks > members:
            return f"num_blocks={self.num_blocks}: there are only {members} members"
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        loop = Loop(self.max_steps, self.tolerance, self.accelerate, progress)
        if self._closed(target):
            return ClosedRoute(
                target=target,
                objective=self.objective,
                num_starts=self.num_starts or SEVERAL,
                num_nodes=self.num_nodes,
                num_blocks=self.num_blocks,
                loop=loop,
                timing=timing,
            ).fit(key)
        return GeneralRoute(
            target=target,
            latent=self.latent,
            e_step=self.e_step,
            num_nodes=self.num_nodes,
            objective=self.objective,
            num_starts=self.num_starts,
            m_step=self.m_step,
            finish=self.finish,
            num_blocks=self.num_blocks,
            num_sparse=self.num_sparse,
            freeze_below=self.freeze_below,
            loop=loop,
            timing=timing,
        ).fit(key)

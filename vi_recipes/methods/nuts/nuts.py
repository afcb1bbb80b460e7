"""The No-U-Turn sampler: NumPyro's kernel, one compiled chunk, chains on threads or vectorised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, ClassVar, Literal, override

import jax
import numpy as np
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

from vi_recipes.core import (
    WIDEST_SCATTER,
    MethodFailure,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.methods.nuts.audit import audit, in_several_orders
from vi_recipes.methods.nuts.kernel import Inputs, KernelSettings, joint_density
from vi_recipes.methods.nuts.marginal import marginal_space, members_integrated
from vi_recipes.methods.nuts.running import Draws, Evaluate, around_zero
from vi_recipes.methods.nuts.sampling import ChainPlan, ChainSpace, Sampled, sample
from vi_recipes.methods.nuts.whitening import Whitening, whiten
from vi_recipes.model import Model, Target, candidates
from vi_recipes.posterior import ResponsePosterior, relabel_draws

Precondition = Literal["auto", "lrvb", "none"]
ChainMethod = Literal["auto", "threads", "vectorized"]

MIN_WHITENED = 500
"""Dimension from which "auto" preconditions: below it adaptation is quick, and a fit is not."""


@dataclass(frozen=True, kw_only=True)
class NUTS(Method):
    """Hamiltonian Monte Carlo with NumPyro's No-U-Turn kernel: the reference for the others.

    One chunk of iterations is compiled once and run again and again, so progress is shown and an
    interrupt keeps the draws there are, at no cost to speed.

    Parameters
    ----------
    num_warmup
        Iterations of adaptation of every chain, which are not kept.
    num_samples
        Draws kept of every chain.
    num_chains
        Chains, each from a starting point of its own.
    target_accept_prob
        Raise it towards 1 against divergences.
    max_tree_depth
        At most ``2 ** max_tree_depth - 1`` leapfrog steps an iteration.
    dense_mass
        Adapt a full mass matrix instead of a diagonal one.
    noncentered
        Location-scale sites to sample in non-centred form, x = loc + scale * e (NumPyro's
        ``LocScaleReparam``): the same posterior, in coordinates that mix where groups say little.
    chain_method
        ``"threads"`` runs one chain a thread, all with one executable, each at its own pace;
        ``"vectorized"`` runs the chains in lockstep, which suits accelerators. ``"auto"`` picks
        threads on a CPU.
    scatter
        Half-width of the uniform scatter of the starting points on the unconstrained scale, in
        units of the coordinates (:mod:`vi_recipes.model.units`), by which adaptation begins too,
        around the model's own ``init`` where it has one, else around 0. With preconditioning, of
        the whitened coordinates around 0, where the posterior has sds near 1.
    precondition
        ``"lrvb"`` samples in coordinates that the linear-response covariance of a mean-field fit
        whitens (:mod:`vi_recipes.methods.nuts.whitening`): the same posterior, at fewer leapfrog
        steps. The fit is part of the run and of its time. ``"auto"`` does so from dimension 500
        where the model has local structure, and goes on without where there is no such fit;
        ``"none"`` never does.
    marginal
        Sample the parameters alone, in float64, every member's latent variables integrated out as
        by :class:`NestedQuadrature`, and draw members given each draw of the parameters: the same
        posterior, to the error of the members' integrals, without funnels between a scale and what
        it scales, so that ``noncentered`` is of no account. For models whose latent variables are
        independent given the parameters, of which there may be any number.
    dtype
        ``"float64"`` or ``"float32"``.

    References
    ----------
    Hoffman, M. D. and Gelman, A. (2014). The No-U-Turn Sampler. JMLR 15, 1593-1623.
    """

    key: ClassVar[str] = "nuts"

    summary: ClassVar[str] = "Markov chain Monte Carlo: right in the limit; slow, and audited"

    num_warmup: int = 1_000
    num_samples: int = 1_000
    num_chains: int = 4
    target_accept_prob: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    noncentered: tuple[str, ...] = ()
    chain_method: ChainMethod = "auto"
    scatter: float = 2.0
    precondition: Precondition = "auto"
    marginal: bool = False
    dtype: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("num_warmup", self.num_warmup, least=0)
        require_count("num_samples", self.num_samples, least=4)
        require_count("num_chains", self.num_chains)
        require(
            isinstance(self.target_accept_prob, float) and 0 < self.target_accept_prob < 1,
            "target_accept_prob",
            self.target_accept_prob,
            "a number between 0 and 1",
        )
        require_count("max_tree_depth", self.max_tree_depth, most=30)
        require(
            self.chain_method in ("auto", "threads", "vectorized"),
            "chain_method",
            self.chain_method,
            "'auto', 'threads' or 'vectorized'",
        )
        require(
            self.precondition in ("auto", "lrvb", "none"),
            "precondition",
            self.precondition,
            "'auto', 'lrvb' or 'none'",
        )
        require(
            not (self.noncentered and self.precondition == "lrvb"),
            "precondition",
            self.precondition,
            "'none' or 'auto' together with noncentered: whitening is of the model's own sites",
        )
        require(isinstance(self.marginal, bool), "marginal", self.marginal, "True or False")
        for name, value, plain in (
            ("precondition", self.precondition, "auto"),
            ("dtype", self.dtype, "float64"),
        ):
            require(
                not self.marginal or value == plain,
                name,
                value,
                f"{plain!r} together with marginal, which has coordinates of its own",
            )
        require(self.dtype in ("float32", "float64"), "dtype", self.dtype, "'float32' or 'float64'")
        require_number("scatter", self.scatter, most=WIDEST_SCATTER)

    @property
    @override
    def dtype_used(self) -> str:
        return self.dtype

    @override
    def applies(self, target: Target) -> str | None:
        known = [site.name for site in target.latents]
        unknown = [name for name in self.noncentered if name not in known]
        require(
            not unknown,
            "noncentered",
            ", ".join(unknown),
            f"latent sites of the model: {', '.join(known)}",
        )
        if reason := super().applies(target):
            return reason
        if not self.marginal:
            return None
        try:
            with jax.enable_x64(True):
                members_integrated(target, Timing())
        except MethodFailure as failure:
            return failure.reason
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        given, reported = target, target.quantities
        if self.marginal:
            return self._fit_marginal(target, key, timing, progress)
        if self.noncentered:
            target = _decentred(target, self.noncentered, timing)
        white, aside = self._whiten(target, key, timing, progress)
        drawn = sample(target, self._space(target, white), self._plan, key, timing, progress)
        with timing.running():
            rows = white.apply_rows(drawn.z) if white else drawn.z * target.units
            samples = target.constrain(rows)
            samples = {site.name: samples[site.name] for site in reported}
            relabelled = 0.0
            if target.exchangeable:
                energy = drawn.stats["potential_energy"]
                best = np.unravel_index(energy.argmin(), energy.shape)
                pivot = {name: value[best] for name, value in samples.items()}
                samples, relabelled = relabel_draws(samples, target.exchangeable, pivot)
        result = self._audited(samples, drawn)
        result.message += aside
        with timing.running_compiled():
            in_several_orders(result, samples, given)
        if target.exchangeable:
            # R-hat and ESS are of the aligned draws: labels that differ between chains are not
            # a failure to mix
            result.message += f"; {relabelled:.0%} of draws relabelled"
        return result

    def _fit_marginal(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result:
        """Sample theta with its members integrated out, and draw them given it."""
        chosen = marginal_space(target, key, timing, progress)
        drawn = sample(target, chosen.space(self.scatter), self._plan, key, timing, progress)
        with timing.running_compiled():
            x = drawn.z.reshape(-1, drawn.z.shape[-1])
            values = target.constrain(chosen.flat_draws(x, jax.random.fold_in(key, 1)))
            shape = drawn.z.shape[:2]
            samples = {s.name: values[s.name].reshape(*shape, *s.shape) for s in target.quantities}
            doubt = chosen.doubt(x)
        result = self._audited(samples, drawn)
        if doubt:
            if result.status.ok:
                result.status, result.message = Status.UNCONVERGED, doubt.said
            else:
                result.message = f"{result.message}; {doubt.said}"
            result.advice = result.advice or doubt.advice
        density = chosen.density
        result.message += f"; chains of {density.dim} parameters: {density.describe()}"
        return result

    def _audited(self, samples: Draws, drawn: Sampled) -> Result:
        return audit(
            samples,
            drawn.stats,
            num_samples=self.num_samples,
            max_tree_depth=self.max_tree_depth,
            interrupted=drawn.stopped,
        )

    @property
    def _plan(self) -> ChainPlan:
        settings = KernelSettings(
            self.num_warmup, self.target_accept_prob, self.max_tree_depth, self.dense_mass
        )
        return ChainPlan(settings, self.num_samples, self.num_chains, self._vectorized, self.dtype)

    def _space(self, target: Target, white: Whitening | None) -> ChainSpace:
        """Return the flat vector in its units, or whitened, as what chains move in."""
        inputs = Inputs(target.arrays(), white.arrays() if white else ())
        structure = white.structure if white else None
        log_density = joint_density(target, structure)
        if structure is None:
            search = partial(_start_target, target, self.scatter)
            return ChainSpace(log_density, inputs, target.dim, None, search, target.units)
        code = structure.border.tobytes(), structure.local.shape, structure.local.tobytes()
        around = partial(
            around_zero,
            scatter=self.scatter,
            dim=target.dim,
            near="the mean-field optimum",
            advice="use precondition='none'",
        )
        return ChainSpace(log_density, inputs, target.dim, code, around)

    @property
    def _vectorized(self) -> bool:
        return self.chain_method == "vectorized" or (
            self.chain_method == "auto" and jax.default_backend() != "cpu"
        )

    def _whiten(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> tuple[Whitening | None, str]:
        """Return whitened coordinates, if wanted and to be had, and what to say of them."""
        if self.precondition == "none" or self.noncentered:
            return None, ""
        if self.precondition == "auto" and (
            target.dim < MIN_WHITENED or not candidates(target.latents, target.slices)
        ):
            return None, ""
        try:
            with jax.enable_x64(True):
                optimum = MeanField().optimise(target, key, timing, progress)
                if optimum.hessian is None:
                    raise MethodFailure(Status.UNCONVERGED, optimum.message)
                hessian = optimum.kl.full_hessian(optimum.eta.ravel(), optimum.hessian)
                with timing.running():
                    factors, eta = optimum.kl.factors, optimum.eta
                    white = whiten(ResponsePosterior(target, factors, eta, hessian=hessian))
        except MethodFailure as failure:
            if self.precondition == "lrvb":
                raise MethodFailure(
                    failure.status,
                    f"no mean-field fit to precondition with: {failure.message}",
                    "use precondition='none'",
                ) from None
            return None, f"; not preconditioned ({failure.message})"
        return white, "; sampled in coordinates whitened by linear response"


def _start_target(target: Target, scatter: float, key: jax.Array, evaluate: Evaluate) -> None:
    target.start(key, scatter=scatter, value_and_grad=evaluate)


def _decentred(target: Target, sites: Sequence[str], timing: Timing) -> Target:
    """Return the same posterior with ``sites`` in non-centred form; they become deterministic."""
    function = target.model.function
    decentred = reparam(function, config={name: LocScaleReparam(0.0) for name in sites})

    @wraps(function)
    def model(**data: Any) -> Any:
        return decentred(**data)

    def make() -> Target:
        inner = Model(function=model, name=target.name, exchangeable=target.exchangeable)
        with timing.compiling():
            decentred_target = Target(inner, **target.data)
        decentred_target.form_of = target
        return decentred_target

    return target.compiled_once(("non-centred", tuple(sites)), make)

"""The No-U-Turn sampler: NumPyro's kernel, one compiled chunk, chains on threads or vectorised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
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
    shapes_of,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.methods.nuts.audit import audit
from vi_recipes.methods.nuts.kernel import Chains, Inputs, Settings
from vi_recipes.methods.nuts.running import Watch, merge, run_chains, start_chains
from vi_recipes.methods.nuts.whitening import Whitening, whiten
from vi_recipes.model import Model, Target, candidates
from vi_recipes.posterior import ResponsePosterior, relabel_draws

Precondition = Literal["auto", "lrvb", "none"]
ChainMethod = Literal["auto", "threads", "vectorized"]

MIN_WHITENED = 500
"""Dimension from which "auto" preconditions: below it adaptation is quick, and a fit is not."""

MAX_CHUNK = 500
"""Most iterations between two looks at progress and interrupts."""

MIN_KEPT = 50
"""Fewest draws a chain an interrupted run is worth keeping for."""


@dataclass(frozen=True, kw_only=True)
class NUTS(Method):
    """Hamiltonian Monte Carlo with NumPyro's No-U-Turn kernel: the reference for the others.

    One chunk of iterations is compiled once and run again and again, so progress is shown and an
    interrupt keeps the draws there are, at no cost to speed.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Iterations of adaptation and draws kept, per chain, and the number of chains.
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
        return super().applies(target)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        reported = target.quantities
        if self.noncentered:
            target = _decentred(target, self.noncentered, timing)
        white, aside = self._whiten(target, key, timing, progress)
        total = self.num_warmup + self.num_samples
        capacity = min(MAX_CHUNK, max(1, -(-total // 40)))
        inputs = Inputs(target.arrays(), white.arrays() if white else ())
        states, run = self._compile(target, key, inputs, white, capacity, timing)
        watch = Watch(progress, total * len(states))
        with timing.running():
            parts = run_chains(
                lambda state, n: run(state, n, inputs),
                states,
                self.num_warmup,
                self.num_samples,
                capacity,
                watch,
                x64=self.dtype == "float64",
            )
            merged = merge(parts, self._vectorized)
            timing.gradient_evaluations += int(merged["num_steps"].sum())
            kept = {name: value[:, self.num_warmup :] for name, value in merged.items()}
            num_kept = kept["z"].shape[1]
            if watch.stopped and num_kept < MIN_KEPT:
                raise KeyboardInterrupt
            z = kept.pop("z").astype(float)
            samples = target.constrain(white.apply_rows(z) if white else z * target.units)
            samples = {site.name: samples[site.name] for site in reported}
            relabelled = 0.0
            if target.exchangeable:
                best = np.unravel_index(
                    kept["potential_energy"].argmin(), kept["potential_energy"].shape
                )
                pivot = {name: value[best] for name, value in samples.items()}
                samples, relabelled = relabel_draws(samples, target.exchangeable, pivot)
        result = audit(
            samples,
            kept,
            num_samples=self.num_samples,
            max_tree_depth=self.max_tree_depth,
            interrupted=watch.stopped,
        )
        result.message += aside
        if target.exchangeable:
            # R-hat and ESS are of the aligned draws: labels that differ between chains are not
            # a failure to mix
            result.message += f"; {relabelled:.0%} of draws relabelled"
        return result

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
                hessian = optimum.kl.full_hessian(optimum.eta.ravel())
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

    def _compile(
        self,
        target: Target,
        key: jax.Array,
        inputs: Inputs,
        white: Whitening | None,
        capacity: int,
        timing: Timing,
    ) -> tuple[list[Any], Callable[..., Any]]:
        """Return the initial states of the chains, and the code that takes them on.

        The code is kept with the target.
        """
        settings = Settings(
            self.num_warmup, self.target_accept_prob, self.max_tree_depth, self.dense_mass
        )
        structure = white.structure if white else None
        chains = Chains(target, settings, structure)
        places = (
            (structure.border.tobytes(), structure.local.shape, structure.local.tobytes())
            if structure
            else None
        )
        code = settings, places, self.dtype
        origin, unit = jnp.zeros(target.dim), 1.0 if white else target.units
        begin = target.compiled_once(
            ("start of NUTS", code, shapes_of(origin, inputs)),
            lambda: timing.compile(chains.begin, key, origin, inputs),
        )
        with timing.running():
            states = start_chains(
                target,
                key,
                self.num_chains,
                self.scatter,
                lambda key, z: begin(key, jnp.asarray(z / unit, float), inputs),
                whitened=white is not None,
            )
        if self._vectorized:
            states = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)]
        run = target.compiled_once(
            ("chunk of NUTS", code, capacity, self._vectorized, shapes_of(states[0], inputs)),
            lambda: timing.compile(
                chains.make_chunk(capacity, self._vectorized), states[0], jnp.int32(1), inputs
            ),
        )
        return states, run


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
            return Target(inner, **target.data)

    return target.compiled_once(("non-centred", tuple(sites)), make)

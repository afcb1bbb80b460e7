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
from numpyro.infer import NUTS as Kernel
from numpyro.infer.reparam import LocScaleReparam

from vi_recipes.core import MethodFailure, Progress, Status, Timing, require
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.methods.nuts.audit import (
    DIVERGENT_SHARE,
    E_BFMI_LIMIT,
    ESS_PER_CHAIN,
    R_HAT_LIMIT,
    _extreme,
)
from vi_recipes.methods.nuts.running import Draws, _merge, _run_chains, _scattered, _Watch
from vi_recipes.methods.nuts.whitening import Whitening, whiten
from vi_recipes.model import Model, Target, candidates
from vi_recipes.posterior import DrawsPosterior, ResponsePosterior, per_scalar, relabel_draws

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
        Half-width of the uniform scatter of the starting points on the unconstrained scale,
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
        require(self.num_warmup >= 0, "num_warmup", self.num_warmup, "a non-negative integer")
        require(self.num_samples >= 4, "num_samples", self.num_samples, "an integer of 4 or more")
        require(self.num_chains >= 1, "num_chains", self.num_chains, "a positive integer")
        require(
            0 < self.target_accept_prob < 1,
            "target_accept_prob",
            self.target_accept_prob,
            "a number between 0 and 1",
        )
        require(
            self.max_tree_depth >= 1, "max_tree_depth", self.max_tree_depth, "a positive integer"
        )
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
        require(self.scatter > 0, "scatter", self.scatter, "a positive number")

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
            with timing.compiling():
                target = _decentred(target, self.noncentered)
        white, aside = self._whiten(target, key, timing, progress)
        arrays = target.arrays(), white.arrays() if white else ()
        total = self.num_warmup + self.num_samples
        capacity = min(MAX_CHUNK, max(1, -(-total // 40)))
        vectorized = self.chain_method == "vectorized" or (
            self.chain_method == "auto" and jax.default_backend() != "cpu"
        )
        states = self._start(target, key, arrays, white, timing)
        if vectorized:
            states = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)]
        run = timing.compile(
            self._chunk(target, white, capacity, vectorized), states[0], jnp.int32(1), arrays
        )
        watch = _Watch(progress, total * len(states))
        with timing.running():
            parts = _run_chains(
                lambda state, n: run(state, n, arrays),
                states,
                self.num_warmup,
                self.num_samples,
                capacity,
                watch,
                x64=self.dtype == "float64",
            )
            merged = _merge(parts, vectorized)
            timing.gradient_evaluations += int(merged["num_steps"].sum())
            kept = {name: value[:, self.num_warmup :] for name, value in merged.items()}
            num_kept = kept["z"].shape[1]
            if watch.stopped and num_kept < MIN_KEPT:
                raise KeyboardInterrupt
            z = kept.pop("z").astype(float)
            samples = target.constrain(white.apply_rows(z) if white else z)
            samples = {site.name: samples[site.name] for site in reported}
            relabelled = 0.0
            if target.exchangeable:
                best = np.unravel_index(
                    kept["potential_energy"].argmin(), kept["potential_energy"].shape
                )
                pivot = {name: value[best] for name, value in samples.items()}
                samples, relabelled = relabel_draws(samples, target.exchangeable, pivot)
        result = self._audit(samples, kept, interrupted=watch.stopped)
        result.message += aside
        if target.exchangeable:
            # R-hat and ESS are of the aligned draws: labels that differ between chains are not
            # a failure to mix
            result.message += f"; {relabelled:.0%} of draws relabelled"
        return result

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

    def _kernel(
        self, target: Target, white: Whitening | None, z: jax.Array, arrays: Any
    ) -> tuple[Kernel, Any]:
        """Return NumPyro's kernel on the flat vector, and its state at ``z``.

        The kernel takes the data from where it is traced, so they stay arguments of the compiled
        code and are not constants in it.
        """
        data, held = arrays

        def potential(v: jax.Array) -> jax.Array:
            return -target.log_density_fn(white.apply(v, held) if white else v, data)

        kernel = Kernel(
            potential_fn=potential,
            target_accept_prob=self.target_accept_prob,
            max_tree_depth=self.max_tree_depth,
            dense_mass=self.dense_mass,
        )
        return kernel, kernel.init(jax.random.key(0), self.num_warmup, z)

    def _start(
        self,
        target: Target,
        key: jax.Array,
        arrays: Any,
        white: Whitening | None,
        timing: Timing,
    ) -> list[Any]:
        """Return the initial state of every chain."""

        def begin(key: jax.Array, z: jax.Array, arrays: Any) -> Any:
            state = self._kernel(target, white, z, arrays)[1]
            return state._replace(rng_key=key)

        starts = jax.random.split(key, 2 * self.num_chains)
        compiled = timing.compile(begin, key, jnp.zeros(target.dim), arrays)
        states = []
        with timing.running():
            for start_key, kernel_key in zip(starts[::2], starts[1::2], strict=True):
                made: list[Any] = []

                def evaluate(
                    z: np.ndarray, key: jax.Array = kernel_key, made: list[Any] = made
                ) -> tuple[Any, Any]:
                    made.append(compiled(key, jnp.asarray(z, float), arrays))
                    return made[-1].potential_energy, made[-1].z_grad

                if white is None:
                    target.start(start_key, scatter=self.scatter, value_and_grad=evaluate)
                else:
                    _scattered(start_key, self.scatter, target.dim, evaluate)
                states.append(made[-1])
        return states

    def _chunk(
        self, target: Target, white: Whitening | None, capacity: int, vectorized: bool
    ) -> Callable[..., Any]:
        """Return ``(state, n, arrays) -> (state, n draws in buffers of length capacity)``."""

        def observe(state: Any) -> dict[str, jax.Array]:
            return {
                "z": state.z,
                "potential_energy": state.potential_energy,
                "energy": state.energy,
                "num_steps": state.num_steps,
                "accept_prob": state.accept_prob,
                "diverging": state.diverging,
                "step_size": state.adapt_state.step_size,
            }

        def chunk(state: Any, n: jax.Array, arrays: Any) -> tuple[Any, dict[str, jax.Array]]:
            # Making the kernel sets it up for sampling; its state here is unused and not computed.
            kernel, _ = self._kernel(target, white, jnp.zeros(target.dim), arrays)

            def step(state: Any) -> Any:
                return kernel.sample(state, (), {})

            advance, look = (jax.vmap(step), jax.vmap(observe)) if vectorized else (step, observe)

            def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                state, buffers = carry
                state = advance(state)
                return state, jax.tree.map(lambda b, v: b.at[i].set(v), buffers, look(state))

            buffers = jax.tree.map(
                lambda s: jnp.zeros((capacity, *s.shape), s.dtype), jax.eval_shape(look, state)
            )
            return jax.lax.fori_loop(0, n, body, (state, buffers))

        return chunk

    def _audit(self, samples: Draws, stats: Draws, *, interrupted: bool) -> Result:
        """Make the result, with its diagnostics and the status they earn."""
        num_steps = stats["num_steps"]
        depth = np.floor(np.log2(np.maximum(num_steps, 1))).astype(int) + 1
        energy = stats["energy"]
        e_bfmi = (np.diff(energy, axis=1) ** 2).mean(1) / energy.var(axis=1)
        diagnostics = {
            "divergences": float(stats["diverging"].sum()),
            "max_tree_depth_share": float((depth >= self.max_tree_depth).mean()),
            "e_bfmi_min": float(e_bfmi.min()),
            "num_steps_mean": float(num_steps.mean()),
            "accept_prob_mean": float(stats["accept_prob"].mean()),
            "step_size_mean": float(stats["step_size"].mean()),
        }
        free = {n: v for n, v in samples.items() if np.ptp(v) > 0}
        diagnostics |= {
            "r_hat_max": _extreme(np.max, per_scalar("rhat", free)),
            "ess_bulk_min": _extreme(np.min, per_scalar("ess", free, method="bulk")),
            "ess_tail_min": _extreme(np.min, per_scalar("ess", free, method="tail")),
        }
        complaints, advice = self._complaints(diagnostics, num_steps.size)
        status = Status.OK if not complaints else Status.UNCONVERGED
        if interrupted:
            status = Status.INTERRUPTED
            complaints.insert(0, f"{num_steps.shape[1]} of {self.num_samples} draws a chain")
        healthy = (
            f"R-hat at most {diagnostics['r_hat_max']:.4f}, bulk ESS at least "
            f"{diagnostics['ess_bulk_min']:.0f}, no trouble reported"
        )
        return Result(
            DrawsPosterior(samples),
            status,
            "; ".join(complaints) or healthy,
            advice,
            diagnostics=diagnostics,
            sample_stats={
                "diverging": stats["diverging"],
                "energy": energy,
                "lp": -stats["potential_energy"],
                "n_steps": num_steps,
                "tree_depth": depth,
                "acceptance_rate": stats["accept_prob"],
                "step_size": stats["step_size"],
            },
        )

    def _complaints(self, measured: dict[str, float], total: int) -> tuple[list[str], str]:
        found, advice = [], ""
        # not (x <= limit): NaN is a complaint too
        if not (self.num_chains > 1 and measured["r_hat_max"] <= R_HAT_LIMIT):
            found.append(
                f"R-hat up to {measured['r_hat_max']:.3f} (limit {R_HAT_LIMIT})"
                if self.num_chains > 1
                else "one chain, so R-hat cannot vouch for it"
            )
            advice = "run longer chains, and more of them"
        floor = ESS_PER_CHAIN * self.num_chains
        for kind in ("bulk", "tail"):
            if not measured[f"ess_{kind}_min"] >= floor:
                found.append(f"{kind} ESS down to {measured[f'ess_{kind}_min']:.0f} (want {floor})")
                advice = advice or "run longer chains"
        if not measured["e_bfmi_min"] >= E_BFMI_LIMIT:
            found.append(f"E-BFMI down to {measured['e_bfmi_min']:.2f} (limit {E_BFMI_LIMIT})")
            advice = "reparameterise (non-centre the hierarchy)"
        if measured["max_tree_depth_share"] > 0.01:
            found.append(f"{measured['max_tree_depth_share']:.0%} of trees at the depth limit")
            advice = "raise max_tree_depth, or reparameterise"
        if measured["divergences"] > DIVERGENT_SHARE * total:
            found.append(f"{measured['divergences']:.0f} divergences in {total} draws")
            advice = "raise target_accept_prob towards 1, or non-centre the hierarchy"
        return found, advice


def _decentred(target: Target, sites: Sequence[str]) -> Target:
    """Return the same posterior with ``sites`` in non-centred form; they become deterministic."""
    function = target.model.function
    decentred = reparam(function, config={name: LocScaleReparam(0.0) for name in sites})

    @wraps(function)
    def model(**data: Any) -> Any:
        return decentred(**data)

    inner = Model(function=model, name=target.name, exchangeable=target.exchangeable)
    return Target(inner, **target.data)

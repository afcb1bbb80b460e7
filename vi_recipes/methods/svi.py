"""Stochastic variational inference: NumPyro's SVI in compiled chunks, with iterate averaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI as Engine
from numpyro.infer import autoguide

from vi_recipes.batches import Batches
from vi_recipes.content import unknown
from vi_recipes.fit import LogEvidence
from vi_recipes.methods.base import Method, Result, require
from vi_recipes.methods.chunks import Run, chunk_size, make_chunk
from vi_recipes.methods.guides import GUIDES, flat_order, make_guide, read_guide, set_up
from vi_recipes.methods.laplace import expand
from vi_recipes.methods.map import Objective as Density
from vi_recipes.methods.minibatch import Feed, make_feed
from vi_recipes.methods.objectives import DEFAULT_ALPHA, OBJECTIVES, Objective
from vi_recipes.methods.rows import find_rows
from vi_recipes.methods.stopping import (
    MAX_ERROR,
    MIN_CHUNKS,
    MIN_STEPS,
    SLACK,
    Scales,
    average_error,
    judge_iterates,
    judge_series,
    location_scales,
)
from vi_recipes.methods.structured import (
    BLOCK_FAMILIES,
    check_families,
    encoded_sites,
    family_name,
    is_point,
    split_sites,
)
from vi_recipes.posterior import Posterior
from vi_recipes.progress import Progress
from vi_recipes.status import Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

NUM_ELBO_DRAWS = 400
ObjectiveName = Literal["elbo", "score", "renyi", "iwae"]


@dataclass(frozen=True, kw_only=True)
class SVI(Method):
    """Maximise the ELBO over a family of guides by stochastic gradients.

    The reported guide averages the iterates of the second half of the run (Polyak-Ruppert
    averaging), whose batch means also give the standard error that the optimiser's noise leaves
    on every mean; the last iterate stands in where its ELBO is better. The message of a fit says
    whether its rule ended the run, or the steps did.

    Parameters
    ----------
    guide
        A name (``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``, ``"delta"``,
        ``"laplace"``, ``"iaf"``, ``"bnaf"``, ``"dais"``); a mapping of site patterns to families,
        as in ``{"beta*": "multivariate_normal", "tau": "gamma"}``; or any NumPyro autoguide class,
        autoguide or guide function. Each pattern makes a block, independent of the others, of one
        of the families ``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``,
        ``"gamma"``, ``"beta"``, ``"dirichlet"``, ``"delta"`` and, for the latent variables of rows,
        ``"amortised"`` or an :class:`Amortised` network; sites that no pattern matches are
        independent normals.
    num_steps
        Gradient steps, at most. A run of them all has converged when the objective's last quarter
        no longer rises on the one before, beyond its Monte Carlo error (itself at most 1 nat) and
        0.05 nats, and the averaged locations are known to ``tolerance``.
    tolerance
        A run stops sooner once its second half is stationary (split R-hat of the guide's
        locations below 1.1, the objective no longer rising) and the Monte Carlo error of every
        averaged location is below this many of the guide's sds. ``None`` takes all steps, as guides
        without locations and scales do: points, flows, functions.
    step_size
        Of Adam; ``None`` takes 0.01, and 0.002 for ``"iaf"``. Ignored with ``optimizer``.
    optimizer
        Any optax gradient transformation; Adam by default.
    objective
        ``"elbo"`` (default) maximises E_q[log p - log q] by reparametrised gradients; ``"score"``
        the same by score-function gradients with a leave-one-out baseline; ``"renyi"`` Renyi's
        bound of order ``alpha``; ``"iwae"`` the importance-weighted bound of ``num_particles``
        draws. Only the ELBO and the importance-weighted bound are reported as lower bounds on the
        log evidence.
    alpha
        Order of Renyi's divergence, 1 excepted; ``None`` takes 0.5. Only with ``"renyi"``.
    num_particles
        Draws for each gradient; ``None`` takes 1 for ``"elbo"`` and 10 for the others.
    batch_size
        Rows of the data in each step, of those in ``plate``; ``None`` takes all. Their log
        densities are scaled up, so that gradients are unbiased; every row comes once an epoch.
        Latent sites in the plate need ``"amortised"`` guides. The Monte Carlo error of the ELBO
        that counts as converged is then 0.001 nats a row, where that is more than 1 nat.
    plate
        Plate whose rows are drawn; ``None`` takes the one that holds all observed sites.
    batches
        Rows that need not fit in memory, in place of ``batch_size``: see
        :func:`batches_from_parquet`. The target then needs to hold a few rows only, and the
        sizes of what is not drawn.
    dtype
        ``"float64"`` or ``"float32"``.

    References
    ----------
    Kucukelbir, A. et al. (2017). Automatic differentiation variational inference. JMLR 18(14).
    Li, Y. and Turner, R. E. (2016). Renyi divergence variational inference. NeurIPS 29.
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    Dhaka, A. et al. (2020). Robust, accurate stochastic optimization for variational inference.
    NeurIPS 33.
    """

    summary: ClassVar[str] = (
        "maximises the ELBO over a guide: scales to anything; as good as its guide and its steps"
    )

    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Guides": {name: family.about for name, family in GUIDES.items()},
        "Families of blocks, in a mapping of site patterns": {
            name: family.about for name, family in BLOCK_FAMILIES.items()
        },
        "Objectives": {name: objective.about for name, objective in OBJECTIVES.items()},
    }

    guide: Any = "normal"
    num_steps: int = 20_000
    tolerance: float | None = 0.05
    step_size: float | None = None
    optimizer: optax.GradientTransformation | None = None
    objective: ObjectiveName = "elbo"
    alpha: float | None = None
    num_particles: int | None = None
    batch_size: int | None = None
    plate: str | None = None
    batches: Batches | None = None
    dtype: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        if isinstance(self.guide, str) and self.guide not in GUIDES:
            close = get_close_matches(self.guide, GUIDES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
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
        require(self.num_steps >= 1, "num_steps", self.num_steps, "a positive integer")
        require(
            self.tolerance is None or self.tolerance > 0,
            "tolerance",
            self.tolerance,
            "a positive number, or None",
        )
        require(
            self.step_size is None or self.step_size > 0,
            "step_size",
            self.step_size,
            "a positive number",
        )
        if self.objective not in OBJECTIVES:
            raise ValueError(unknown("objective", str(self.objective), OBJECTIVES))
        fewest = 1 if self.objective == "elbo" else 2
        require(
            self.num_particles is None or self.num_particles >= fewest,
            "num_particles",
            self.num_particles,
            f"an integer of at least {fewest} with objective='{self.objective}'",
        )
        require(
            self.alpha is None or (self.objective == "renyi" and self.alpha != 1),
            "alpha",
            self.alpha,
            "an order other than 1, which is the ELBO, and only with objective='renyi'",
        )
        require(self.dtype in ("float32", "float64"), "dtype", self.dtype, "'float32' or 'float64'")
        require(
            self.batch_size is None or self.batch_size >= 1,
            "batch_size",
            self.batch_size,
            "a positive integer",
        )
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
        optimizer = self.optimizer
        require(
            optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")),
            "optimizer",
            optimizer,
            "an optax gradient transformation",
        )

    @property
    @override
    def name(self) -> str:
        if self.guide == "normal":
            return "svi"
        if isinstance(self.guide, Mapping):
            return "svi_structured"
        label = (
            self.guide
            if isinstance(self.guide, str)
            else getattr(self.guide, "__name__", type(self.guide).__name__)
        )
        return f"svi_{label}"

    def _is(self, kind: type) -> bool:
        """Whether the guide, or a block of it, is an autoguide of a kind, however it is given."""
        if isinstance(self.guide, Mapping):
            families = map(family_name, self.guide.values())
            named: list[Any] = [BLOCK_FAMILIES[family].make for family in families]
        else:
            named = [GUIDES[self.guide].make if isinstance(self.guide, str) else self.guide]
        return any(
            isinstance(g, kind) or (isinstance(g, type) and issubclass(g, kind)) for g in named
        )

    @property
    def _step_size(self) -> float:
        family = GUIDES.get(self.guide) if isinstance(self.guide, str) else None
        return self.step_size or (family.step_size if family else 0.01)

    @property
    def _objective(self) -> Objective:
        return OBJECTIVES[self.objective]

    @property
    def _num_particles(self) -> int:
        return self.num_particles or self._objective.num_particles

    @property
    @override
    def dtype_used(self) -> str:
        return self.dtype

    @override
    def applies(self, target: Target) -> str | None:
        flow = self.guide in ("iaf", "bnaf") if isinstance(self.guide, str) else False
        if flow and target.dim < 2:
            return "a flow needs two coordinates or more, and the model has one: use guide='normal'"
        if flow and target.has_scan:
            return (
                "NumPyro's scan cannot be replayed under a guide with neural networks: use "
                "guide='multivariate_normal'"
            )
        if isinstance(self.guide, Mapping):
            split_sites(self.guide, target)  # raises where it cannot
        by_numpyro = isinstance(self.guide, str | Mapping | type | autoguide.AutoGuide)
        if by_numpyro and target.moving_supports:
            return (
                f"the support of {', '.join(target.moving_supports)} depends on other sites, and "
                "NumPyro's automatic guides keep supports fixed: write the site as a transform of "
                "one with a fixed support (x = lo + (hi - lo) * share), or give a guide function"
            )
        return (
            self._objective_applies(target)
            or self._minibatches_apply(target)
            or super().applies(target)
        )

    def _objective_applies(self, target: Target) -> str | None:
        if self.objective == "score" and self._is(autoguide.AutoDAIS):
            return "the draws of DAIS have no density, so no score: use objective='elbo'"
        if self.objective == "score" and self._is(autoguide.AutoLowRankMultivariateNormal):
            return (
                "NumPyro's low-rank normal starts without its low-rank part, where the score in it "
                "is zero, and so would stay there: use multivariate_normal or objective='elbo'"
            )
        joint = self._is(autoguide.AutoContinuous)
        if self.objective in ("renyi", "iwae") and joint and _enclosing_plates(target):
            return (
                f"plate {', '.join(_enclosing_plates(target))} holds every site of the model, and "
                "NumPyro then takes importance weights member by member, which a guide that is "
                "joint over the members has not: use guide='normal' or objective='elbo'"
            )
        return None

    def _minibatches_apply(self, target: Target) -> str | None:
        rows = find_rows(target, self.batch_size, self.plate, self.batches)
        if rows is None:
            return None
        if self.objective in ("renyi", "iwae"):
            return (
                f"the {self._objective.title} is no sum over rows, so minibatches have no unbiased "
                "estimate of it: use objective='elbo'"
            )
        if self._is(autoguide.AutoDAIS):
            return "DAIS moves its draws by the density of all rows: use guide='normal'"
        if self._is(autoguide.AutoLaplaceApproximation) and not rows.in_memory:
            return "the curvature takes all rows in memory: use guide='multivariate_normal'"
        encoded: list[str] = []
        if isinstance(self.guide, Mapping):
            encoded = encoded_sites(self.guide, target)
        elif not isinstance(self.guide, str | type | autoguide.AutoGuide):
            return None  # a guide function knows its rows
        for name in rows.local(target):
            if name not in encoded:
                return (
                    f"site '{name}' is local to plate '{rows.plate}', whose rows are drawn, and "
                    "parameters of its own for every row would hardly ever be updated: give it an "
                    f"encoder, guide={{'{name}': 'amortised'}}, integrate it out in the model, or "
                    "fit all rows"
                )
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        rows = find_rows(target, self.batch_size, self.plate, self.batches)
        seed = int(jax.random.bits(jax.random.fold_in(key, 1), (), "uint32"))
        with timing.running():
            feed = make_feed(target, rows, chunk_size(self.num_steps), seed)
        with closing(feed):
            return self._run(target, feed, key, timing, progress)

    def _run(
        self, target: Target, feed: Feed, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result:
        start_key, init_key, elbo_key, read_key = jax.random.split(key, 4)
        with timing.compiling():
            # the density alone: the guide's own set-up takes gradients
            start = target.start(
                start_key, value_and_grad=lambda z: (target.log_density(z), np.zeros(1))
            )
            feed.verify(start)
            guide = make_guide(self.guide, feed.shown, feed.start(start), target)
            optimizer = self.optimizer or optax.adam(self._step_size)
            engine = Engine(
                feed.function,
                guide,
                optimizer,
                self._objective.make(
                    self._num_particles, DEFAULT_ALPHA if self.alpha is None else self.alpha
                ),
            )

            if isinstance(self.guide, str | Mapping) and self.guide != "dais":
                state = set_up(engine, feed.shown, init_key)
            else:  # DAIS keeps the model's density and a user's guide may: no traced values there
                state = engine.init(init_key, **feed.shown.keywords(feed.shown.arrays()))
        scales = location_scales(guide)
        size, arrays = feed.size, feed.next()
        advance = timing.compile(
            make_chunk(engine, feed, scales or {}), state, jnp.int32(1), arrays
        )
        run = Run(state)
        try:
            for first in range(0, self.num_steps, size):
                n = min(size, self.num_steps - first)
                with timing.running():
                    arrays = feed.next() if first else arrays
                    run.state, losses, mean, variance = advance(run.state, jnp.int32(n), arrays)
                    run.elbo.append(-np.asarray(losses, float)[:n])
                timing.gradient_evaluations += n * self._num_particles
                if not np.isfinite(run.elbo[-1]).all():
                    return self._diverged(run)
                with timing.running():
                    run.means.append(jax.tree.map(np.asarray, mean))
                    run.variances.append(jax.tree.map(np.asarray, variance))
                    self._look(run, scales, engine.constrain_fn)
                title = self._objective.title
                progress(first + n, self.num_steps, f"{title} {run.elbo[-1].mean():.6g}")
                if run.stopped:
                    break
        except KeyboardInterrupt:
            if len(run.means) < 2:
                raise
            run.interrupted = True
        return self._read(run, engine, guide, target, feed, timing, advance, (elbo_key, read_key))

    def _look(self, run: Run, scales: Scales | None, constrain: Callable[..., Any]) -> None:
        """Ask the stopping rule, where the guide has locations and there are steps enough."""
        steps = sum(map(len, run.elbo))
        last = steps >= self.num_steps
        # every time a tenth later: looking costs as much as hundreds of steps of a small model
        due = steps >= max(MIN_STEPS, 1.1 * run.looked) and len(run.means) >= MIN_CHUNKS
        early = self.tolerance is not None and due
        if not scales or len(run.means) < 2 or not (last or early):
            return
        run.looked = steps
        run.iterates = judge_iterates(scales, run.means, run.variances, constrain)
        if early and self.tolerance is not None and run.iterates.within(self.tolerance):
            run.stopped = judge_series(np.concatenate(run.elbo)).flat

    def _diverged(self, run: Run) -> Result:
        elbo = np.concatenate(run.elbo)
        step = int(np.flatnonzero(~np.isfinite(elbo))[0]) + 1
        message = f"the {self._objective.title} became {elbo[step - 1]} at step {step}"
        if run.means:
            done = sum(map(len, run.elbo[:-1]))
            message += f"; over the {run.elbo[-2].size} steps to step {done} it still averaged "
            message += f"{run.elbo[-2].mean():.6g}"
        return Result(
            None,
            Status.DIVERGED,
            message,
            "lower step_size, use dtype='float64', or clip gradients with optax",
            trace=self._trace(elbo[: step - 1]),
        )

    def _trace(self, elbo: np.ndarray) -> dict[str, np.ndarray]:
        quantity = self._objective.quantity
        windows = np.array_split(elbo, min(200, elbo.size)) if elbo.size else []
        return {
            quantity: np.array([w.mean() for w in windows]),
            f"{quantity}_se": np.array([w.std() / np.sqrt(w.size) for w in windows]),
            f"{quantity}_step": np.cumsum([w.size for w in windows]),
        }

    def _read(
        self,
        run: Run,
        engine: Engine,
        guide: Any,
        target: Target,
        feed: Feed,
        timing: Timing,
        advance: Callable[..., Any],
        keys: tuple[jax.Array, jax.Array],
    ) -> Result:
        elbo = np.concatenate(run.elbo)
        late = run.means[len(run.means) // 2 :]
        average = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *late)
        chosen, evidence, which = average, None, "the average of the second half of the steps"
        if not isinstance(guide, autoguide.AutoDelta | autoguide.AutoLaplaceApproximation):
            with timing.running():
                last = jax.tree.map(np.asarray, engine.optim.get_params(run.state.optim_state))
                data = feed.singles(NUM_ELBO_DRAWS)
                of_average, of_last = (
                    self._fresh_elbos(engine, run.state, params, keys[0], advance, data)
                    for params in (average, last)
                )
            timing.gradient_evaluations += 2 * NUM_ELBO_DRAWS * self._num_particles
            drawn = of_average
            # Averages of flows' weights can be worse than any of the weights averaged. Both had the
            # same draws and minibatches, so that the difference is known better than either.
            error = _standard_error(of_average - of_last)
            if not of_average.mean() > of_last.mean() - max(SLACK, 2 * error):
                chosen, drawn, which = last, of_last, "the last step, better than the average"
            bound = self._objective.bound
            evidence = LogEvidence(float(drawn.mean()), _standard_error(drawn), bound)
        params = engine.constrain_fn(jax.tree.map(jnp.asarray, chosen))
        noise = None
        if len(late) > 1:  # locations are unconstrained: their batch means are on the right scale
            noise = jax.tree.map(lambda *leaves: average_error(np.stack(leaves)), *late)
        status, message, advice = self._judge(elbo, run, feed)
        message += f"; the answer is {which}"
        if isinstance(guide, autoguide.AutoLaplaceApproximation):
            # NumPyro's own would zero the covariance of a singular Hessian
            z = np.asarray(params[f"{guide.prefix}_loc"], float)[flat_order(guide, target)]
            posterior: Posterior
            with jax.enable_x64(True):
                posterior = expand(Density(target, timing, jacobian=True), z).posterior
        else:
            with timing.running():
                posterior = read_guide(guide, params, target, keys[1], noise)
        quantity = self._objective.quantity
        trace = self._trace(elbo)
        return Result(
            posterior,
            status,
            message,
            advice,
            trace=trace,
            diagnostics={
                quantity: evidence.value if evidence else float(trace[quantity][-1]),
                f"{quantity}_se": evidence.se if evidence else float("nan"),
                "num_steps": float(elbo.size),
                **({"r_hat": run.iterates.r_hat} if run.iterates else {}),
            },
            # with a mass at a point it bounds the density there, not the evidence
            log_evidence=None if is_point(guide) or not self._objective.bound else evidence,
        )

    def _fresh_elbos(
        self,
        engine: Engine,
        state: Any,
        params: Any,
        key: jax.Array,
        advance: Callable[..., Any],
        data: Sequence[Any],
    ) -> np.ndarray:
        """Return estimates of the ELBO at unconstrained ``params``, each from fresh draws.

        The loss of a step is taken before the step, so the compiled chunk gives it: nothing more
        is compiled.
        """
        optim_state = engine.optim.init(jax.tree.map(jnp.asarray, params))
        one, elbos = jnp.int32(1), []
        state = state._replace(rng_key=key)
        for arrays in data:
            # each step hands on its stream of random numbers, and nothing else
            state, losses, _, _ = advance(state._replace(optim_state=optim_state), one, arrays)
            elbos.append(-float(np.asarray(losses)[0]))
        return np.array(elbos)

    def _judge(self, elbo: np.ndarray, run: Run, feed: Feed) -> tuple[Status, str, str]:
        plateau, title = judge_series(elbo), self._objective.title
        climb = (
            f"over the last quarter the {title} gained {plateau.gain:.2g} "
            f"(Monte Carlo error {plateau.error:.2g})"
        )
        found = f"{run.iterates}; {climb}" if run.iterates else climb
        if run.interrupted:
            return Status.INTERRUPTED, f"{elbo.size} steps; {found}", ""
        if run.stopped:
            return Status.OK, f"stopped by its rule after {elbo.size} steps: {found}", ""
        message = f"all {elbo.size} steps were taken; {found}"
        if elbo.size < 40 or not plateau.flat:
            return Status.UNCONVERGED, message, "raise num_steps, or step_size"
        if plateau.error > max(MAX_ERROR, feed.max_error):
            return Status.UNCONVERGED, message, f"lower step_size: the {title} still swings"
        if run.iterates and self.tolerance is not None and run.iterates.error > self.tolerance:
            return Status.UNCONVERGED, message, "raise num_steps, or tolerance"
        return Status.OK, message, ""


def _standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _enclosing_plates(target: Target) -> list[str]:
    """Return the plates that hold every site of the model that has a density."""
    sites = [{name for name, _, _ in s.plates} for s in (*target.latents, *target.observed)]
    return [] if target.has_factors else sorted(set.intersection(*sites))

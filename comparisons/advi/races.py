"""One model by every way to its mean-field optimum, and by NUTS: errors against seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoNormal

import vi_recipes as vr
from vi_recipes.posterior import GaussianPosterior

STEP_SIZE = 0.01
CHUNK = 250
NUM_CHUNKS = 40
"""Steps between two looks at the plain run, and their number."""

BUDGET = 12_000
"""Steps, at most, of the run that sets its step sizes and its end itself."""

NUTS_SETTINGS: dict[str, Any] = {"num_warmup": 300, "num_samples": 300}

NUM_LOOKS = 30
SHARED = 0.7
"""Share of NUTS's draws up to which their mean is laid beside that of all."""

Means = dict[str, np.ndarray]


@dataclass(frozen=True)
class Curve:
    """Errors by seconds.

    Parameters
    ----------
    compile_seconds
        Before the first step.
    seconds
        Of run, at every look.
    errors
        The largest of any mean there, in posterior sds.
    """

    compile_seconds: float
    seconds: np.ndarray
    errors: np.ndarray

    @property
    def since_start(self) -> np.ndarray:
        """Seconds of a first fit, compilation included."""
        return self.compile_seconds + self.seconds

    def reached(self, level: float) -> float:
        """Return the seconds of run until the error is within ``level`` for good, or infinity."""
        outside = np.flatnonzero(~(self.errors <= level))
        first = outside[-1] + 1 if outside.size else 0
        return float(self.seconds[first]) if first < self.seconds.size else float("inf")


@dataclass(frozen=True)
class Race:
    """How far every way is from where it goes, by seconds.

    Parameters
    ----------
    name, dim
        The model, and its number of coordinates.
    first, meanfield, response
        Deterministic fits: with all that the first compiles, the same again, linear response.
    last, average
        The plain stochastic run: its last iterate, and the average of its second half.
    sd_error
        The ratio of sds, plain stochastic over deterministic, that is furthest from 1 at the end.
    own_rule, own_fit
        The end of the run that sets its steps and its end itself, and the fit.
    nuts, sampler
        The mean of draws so far, and the fit.
    bias
        How far the mean-field optimum is from NUTS's means, at most.
    """

    name: str
    dim: int
    first: vr.Fit
    meanfield: vr.Fit
    response: vr.Fit
    last: Curve
    average: Curve
    sd_error: float
    own_rule: Curve
    own_fit: vr.Fit
    nuts: Curve
    sampler: vr.Fit
    bias: float


def race(
    name: str, design: dict[str, Any], seed: int, done: vr.Comparison, target: vr.Target
) -> Race:
    """Fit a model by every way to the mean-field optimum, and by NUTS.

    Parameters
    ----------
    name, design
        The model, and arguments of its simulation; none take its own data.
    seed
        Of all that is drawn.
    done, target
        Fits that need not be made again where the model is theirs, and their target.
    """
    if name == target.name and not design:
        first, response, sampler = (done[way] for way in ("meanfield", "lrvb", "nuts"))
    else:
        model = vr.load_model(name)
        assert model.simulate is not None or not design
        target = vr.Target(model, **(model.simulate(**design) if design and model.simulate else {}))
        first = vr.MeanField().fit(target, key=seed, throw=True)
        response = vr.LinearResponse().fit(target, key=seed)
        settings = {**model.options.get("nuts", {}), **NUTS_SETTINGS}
        sampler = vr.NUTS(**settings).fit(target, key=seed)
    meanfield = vr.MeanField().fit(target, key=seed, throw=True)  # compiled already
    sites = [site.name for site in target.latents]
    scale = next(fit for fit in (sampler, response, meanfield) if fit.has_result).sd()

    def distance(a: Means, b: Means) -> float:
        return max(float(np.max(np.abs(a[s] - b[s]) / scale[s])) for s in sites)

    optimum = meanfield.mean()
    last, average, sd = plain(target, seed, lambda mean: distance(mean, optimum))
    ratios = np.concatenate([np.ravel(sd[s] / meanfield.sd()[s]) for s in sites])
    own_rule, own_fit = by_own_rule(target, seed, lambda mean: distance(mean, optimum))
    nothing = Curve(0.0, np.empty(0), np.empty(0))
    return Race(
        name=name,
        dim=target.dim,
        first=first,
        meanfield=meanfield,
        response=response,
        last=last,
        average=average,
        sd_error=float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        own_rule=own_rule,
        own_fit=own_fit,
        nuts=draws_so_far(sampler, meanfield, distance) if sampler.has_result else nothing,
        sampler=sampler,
        bias=distance(optimum, sampler.mean()) if sampler.has_result else float("nan"),
    )


def plain(target: vr.Target, seed: int, error: Any) -> tuple[Curve, Curve, Means]:
    """Return the errors of plain stochastic gradients, and the sds at the end."""
    begun = time.perf_counter()
    stochastic = Stochastic(target, seed)
    compile_seconds = time.perf_counter() - begun
    seconds, last, average, locations, spent = [], [], [], [], 0.0
    scales, late = np.empty(0), np.empty(0)
    for look in range(NUM_CHUNKS):
        begun = time.perf_counter()
        at_end, scales, mean = stochastic.advance()
        spent += time.perf_counter() - begun
        locations.append(mean)
        late = np.mean(locations[len(locations) // 2 :], axis=0)
        if look < 8 or look % 4 == 3:
            seconds.append(spent)
            last.append(error(GaussianPosterior(target, at_end, None, scales).mean()))
            average.append(error(GaussianPosterior(target, late, None, scales).mean()))
    sd = GaussianPosterior(target, late, None, scales).sd()
    made = (Curve(compile_seconds, np.array(seconds), np.array(e)) for e in (last, average))
    return next(made), next(made), sd


def by_own_rule(target: vr.Target, seed: int, error: Any) -> tuple[Curve, vr.Fit]:
    """Return the error of a run from the mode, where there is one, with steps that fall."""
    fit = vr.SVI(init="map", num_steps=BUDGET).fit(target, key=seed)
    seconds, errors = np.empty(0), np.empty(0)
    if fit.has_result:
        seconds, errors = np.array([fit.timing.run_seconds]), np.array([error(fit.mean())])
    return Curve(fit.timing.alone_seconds - fit.timing.run_seconds, seconds, errors), fit


def draws_so_far(sampler: vr.Fit, meanfield: vr.Fit, distance: Any) -> Curve:
    """Return how far the mean of NUTS's draws so far is from that of all.

    What both have in common is made up for: of T independent draws the mean of the first t is from
    that of all by sqrt(1 - t / T) of its own error. Seconds of warm-up and draws are shared out by
    leapfrog steps.
    """
    tree = sampler.to_arviz()
    steps = np.asarray(tree["sample_stats"]["n_steps"]).sum(axis=0)
    whitened = "whitened" in sampler.message
    before = meanfield.timing.run_seconds if whitened else 0.0
    evaluations = sampler.timing.gradient_evaluations
    evaluations -= meanfield.timing.gradient_evaluations if whitened else 0
    each = (sampler.timing.run_seconds - before) / max(evaluations, 1)
    spent = sampler.timing.run_seconds - each * steps.sum() + each * np.cumsum(steps)
    posterior = tree["posterior"]
    total = steps.size
    looks = np.unique(np.geomspace(2, SHARED * total, NUM_LOOKS).astype(int))
    sites = [str(name) for name in sampler.mean()]
    values = {site: np.asarray(posterior[site]) for site in sites}
    everything = {site: v.mean(axis=(0, 1)) for site, v in values.items()}
    errors = [
        distance({s: v[:, :t].mean(axis=(0, 1)) for s, v in values.items()}, everything)
        / np.sqrt(1 - t / total)
        for t in looks
    ]
    timing = sampler.timing
    compiling = timing.alone_seconds - timing.run_seconds
    return Curve(compiling, spent[looks - 1], np.array(errors))


class Stochastic:
    """NumPyro's SVI with independent normals, in chunks of steps.

    Parameters
    ----------
    target
        What is fitted.
    seed
        Of the start and of the draws.
    """

    def __init__(self, target: vr.Target, seed: int) -> None:
        self.target = target
        key, start_key = jax.random.split(jax.random.key(seed))
        point = target.constrain(target.start(start_key))
        values = {site.name: jnp.asarray(point[site.name]) for site in target.latents}
        function = target.model.function
        guide = AutoNormal(function, init_loc_fn=init_to_value(values=values))
        engine = SVI(function, guide, optax.adam(STEP_SIZE), Trace_ELBO())
        self.arrays = target.arrays()
        # one program: one operation at a time the set-up takes longer than the steps
        begin = jax.jit(lambda key: engine.init(key, **target.keywords(self.arrays)))
        self.state = begin(key)

        def flat(state: Any, what: str) -> jax.Array:
            params = engine.get_params(state)
            return target.ravel({s.name: params[f"{s.name}_auto_{what}"] for s in target.latents})

        def chunk(state: Any, arrays: Any) -> tuple[Any, ...]:
            def step(_: int, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
                state, total = carry
                state, _loss = engine.update(state, **target.keywords(arrays))
                return state, total + flat(state, "loc")

            first = (state, jnp.zeros(target.dim))
            state, total = jax.lax.fori_loop(0, CHUNK, step, first)
            return state, flat(state, "loc"), flat(state, "scale"), total / CHUNK

        self._chunk = jax.jit(chunk).lower(self.state, self.arrays).compile()

    def advance(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take a chunk of steps; return locations, scales, and the chunk's mean locations."""
        self.state, *found = self._chunk(self.state, self.arrays)
        loc, scale, mean = map(np.asarray, found)
        return loc, scale, mean

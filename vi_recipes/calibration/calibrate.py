"""Many simulations, side by side, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vi_recipes.calibration.calibration import Calibration
from vi_recipes.calibration.job import Ranking
from vi_recipes.calibration.ranks import Outcome, choose
from vi_recipes.calibration.simulate import PriorPredictive, Simulation, SimulationError
from vi_recipes.calibration.store import FILE, FOLDERS, Store
from vi_recipes.cells import Engine, Place, can_be_sent, engine, in_full, run_cells
from vi_recipes.core import (
    Progress,
    as_key,
    check_arguments,
    held,
    require,
    require_count,
    silent,
    split_key,
)
from vi_recipes.fit import provenance
from vi_recipes.methods import Method
from vi_recipes.model import Model, Target

NUM_TRIES = 20
"""Data sets that are simulated to find a finite one that says what the calibration is of."""

NUM_TRUTHS = 3
"""Parameters drawn to see what is the same in all of them: a constant."""


@check_arguments("path", "progress", "quantities")
def calibrate(
    model: Target | Model | Callable[..., Any],
    method: Method,
    *,
    num_simulations: int = 200,
    num_draws: int = 99,
    key: jax.Array | int = 0,
    path: str | Path | None = None,
    executor: Engine = None,
    quantities: Sequence[str] | None = None,
    progress: Callable[[str], AbstractContextManager[Progress]] | None = None,
) -> Calibration:
    """Rank true parameters among a method's draws, over data simulated from the model.

    All simulations share compiled code, unless the model reads sizes off its observations. An
    interrupt keeps what is done.

    Parameters
    ----------
    model
        A :class:`Target`, whose data say how many observations there are and what the covariates
        are, while its observations are replaced; or a :class:`Model` with data of its own.
    method
        What is calibrated; it must give draws, not a point.
    num_simulations
        Data sets that are drawn and fitted. What 200 can show, and what not, is in the result.
    num_draws
        Draws among which the truth is ranked, from 2. A sampler's are thinned to so many; where its
        effective sample size is smaller it runs again, twice as long, up to three times.
    key
        A JAX key or an integer seed. Simulation k is the same whatever the number of simulations.
    path
        Folder that keeps every simulation, in ``calibration.npz``; what is there already is not
        done again.
    executor
        Where simulations run: any ``concurrent.futures.Executor``, such as a process pool, loky's,
        mpi4py's or Dask's (``Client.get_executor()``); a number of processes on this machine; or
        ``None`` for this process. Model and method are then sent by name, with the source of their
        files: what a notebook or a function defines cannot be sent. A simulation whose process dies
        is tried again, twice.
    quantities
        Sites to rank; all latent and deterministic ones by default. The joint log likelihood is
        always ranked too, where the model has one.
    progress
        ``progress(title)`` is a context that yields a :class:`~vi_recipes.core.progress.Progress`.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        For a model that cannot be simulated from (improper priors, ``numpyro.factor`` terms, scaled
        or masked priors, observations that are covariates too, nothing observed), a method that
        gives points, and a folder with simulations of something else.

    References
    ----------
    Talts, S., Betancourt, M., Simpson, D., Vehtari, A. and Gelman, A. (2018). Validating Bayesian
    inference algorithms with simulation-based calibration. arXiv:1804.06788.
    Modrák, M. et al. (2023). Simulation-based calibration checking for Bayesian computation: the
    choice of test quantities shapes sensitivity. Bayesian Analysis, doi:10.1214/23-BA1404.
    """
    require(isinstance(method, Method), "method", type(method).__name__, "a method, such as NUTS()")
    require_count("num_simulations", num_simulations)
    require_count("num_draws", num_draws, least=2)
    target = model if isinstance(model, Target) else Target(model)
    if (reason := method.refusal(target)) is not None:
        raise ValueError(f"method '{method.name}' does not apply: {reason}")
    # processes begin while what they are to do is made ready, unless there may be nothing to do
    begins = (path is None or not (Path(path) / FILE).exists()) and can_be_sent((target, method))
    with engine(executor, needs=Ranking.__module__ if begins else "") as where:
        predictive = PriorPredictive(target)
        seed = as_key(key)
        first = _first(predictive, seed)
        chosen = choose(predictive, quantities, [simulation.truth for simulation in first])
        with held(path, FILE, FOLDERS):
            store = Store(
                path,
                identity={
                    "model": target.name,
                    "seed": str(np.asarray(jax.random.key_data(seed)).tolist()),
                    "method": in_full(method),
                    "quantities": ", ".join(chosen.labels),
                    "number of draws": str(num_draws),
                    "first data simulated": first[0].target.fingerprint,
                },
            )
            todo = [k for k in range(num_simulations) if k not in store.outcomes]
            job = Ranking(predictive, method, chosen, num_draws, seed)
            title = f"{method.name} on {target.name}"
            with progress(title) if progress else nullcontext(silent) as report:

                def keep(number: int, outcome: Outcome, _: Place) -> None:
                    store.add(number, outcome)
                    missing = sum(k not in store.outcomes for k in todo)
                    report(num_simulations - missing, num_simulations, "simulations")

                try:
                    run_cells(job, todo, keep, where)
                except KeyboardInterrupt:
                    pass  # what is done is kept, and the result says that it is not all
                finally:
                    store.save(now=True)
    outcomes = {k: v for k, v in sorted(store.outcomes.items()) if k < num_simulations}
    record = provenance(
        predictive.target,
        seed=int(key) if isinstance(key, int | np.integer) else None,
        dtype=method.dtype_used,
    )
    return Calibration(
        model=target.name,
        method=method.name,
        config=method.options(),
        num_simulations=num_simulations,
        num_draws=num_draws,
        labels=chosen.labels,
        outcomes=outcomes,
        notes=_notes(chosen.left_out, predictive),
        provenance=record,
        interrupted=any(k not in outcomes for k in range(num_simulations)),
    )


def _first(predictive: PriorPredictive, seed: jax.Array) -> list[Simulation]:
    """Return a few simulations: the first is a mark of covariates, prior and likelihood."""
    found, reason = [], ""
    for number in range(NUM_TRIES):
        try:
            data_key = split_key(jax.random.fold_in(seed, number))[0]
            found.append(predictive.draw(data_key))
        except SimulationError as error:
            reason = str(error)
        if len(found) == NUM_TRUTHS:
            break
    if not found:
        raise SimulationError(
            f"model '{predictive.target.name}': {reason}, in {NUM_TRIES} data sets"
        )
    return found


def _notes(left_out: Sequence[str], predictive: PriorPredictive) -> list[str]:
    notes = [f"No ranks of {sentence}." for sentence in left_out]
    listed: Mapping[str, str] = predictive.arguments
    observed = ", ".join(dict.fromkeys(listed.values()))
    notes.append(f"Simulated in every data set: {observed}. All else is as in the data given.")
    if not predictive.shares_code:
        notes.append(
            f"The model reads sizes off {observed}, so that code was compiled for every data set."
        )
    return notes

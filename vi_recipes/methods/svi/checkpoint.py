"""Checkpoints of SVI: its runs in a file between chunks, and going on from there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI as Engine

from vi_recipes.core import ByIdentity, CheckpointError, KeptFile, KeptWords
from vi_recipes.methods.svi.chunks import Chunk, Run
from vi_recipes.methods.svi.options import SVIOptions
from vi_recipes.methods.svi.stopping import Stationarity
from vi_recipes.model import Target

SECONDS = 5.0
"""Between two writings."""

SHARE = 0.02
"""Share of the time that writing may take."""

PROBES = (0, 1, 10, 100, 1_000, 10_000, 100_000)
"""Steps at which schedules of step sizes are compared."""

WORDS = KeptWords(
    argument="checkpoint",
    damaged="is no checkpoint of SVI that can be read",
    other="is of another fit",
    elsewhere="another path",
    going_on="fit with what the file is of",
)


class Checkpoint:
    """A file that holds what the runs of a fit have done.

    It is whole at any moment. It holds arrays and JSON: reading it runs no code.

    Parameters
    ----------
    path
        Of the file.
    identity
        What the runs are of, in words: name -> value. Reading compares them one by one.
    numbers
        The same, of what is compared to rounding.

    Raises
    ------
    CheckpointError
        For a file that is not a checkpoint, and for one of another fit, which names the difference.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, str],
        numbers: Mapping[str, Sequence[float]],
    ) -> None:
        self.path = Path(path)
        self._file = KeptFile(self.path, dict(identity), WORDS)
        self._numbers = {name: [float(v) for v in values] for name, values in numbers.items()}
        self.header: dict[str, Any] = {}
        """What the file says of itself; empty where there is none yet."""
        self._stored: dict[str, np.ndarray] = {}
        self._written, self._cost = time.monotonic(), 0.0
        _check_place(self.path)
        if self.path.exists():
            self.header, self._stored = self._file.read_arrays()
            self._compare()

    def _compare(self) -> None:
        for name, values in self._numbers.items():
            theirs = self.header["numbers"].get(name, [])
            same = len(theirs) == len(values) and np.allclose(
                theirs, values, rtol=1e-5, atol=1e-8, equal_nan=True
            )
            if not same:
                raise self._file.refusal(name, _listed(theirs), _listed(values))

    # -- runs --------------------------------------------------------------------------------------

    def runs(self, like: Any, means_like: Any) -> list[Run]:
        """Return the runs that the file holds, none where there is none.

        Parameters
        ----------
        like
            A state of the engine: the form of the states.
        means_like
            Unconstrained parameters: the form of their means.
        """
        runs = []
        for r, facts in enumerate(self.header.get("runs", [])):
            seen = facts["iterates"]
            run = Run(
                self._unflatten(f"{r}/first", like),
                iterates=Stationarity(*seen) if seen else None,
                looked=facts["looked"],
                stopped=facts["stopped"],
            )
            if facts["diverged"]:
                run.diverged = self._stored[f"{r}/diverged"]
            elbo = np.split(self._stored[f"{r}/elbo"], np.cumsum(facts["lengths"])[:-1])
            means = self._unflatten(f"{r}/mean", means_like)
            variances = {n: self._stored[f"{r}/variance/{n}"] for n in facts["watched"]}
            for k, part in enumerate(elbo if facts["lengths"] else []):
                mean = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), means)
                variance = {n: v[k] for n, v in variances.items()}
                run.add(Chunk(None, part, mean, variance, k in facts["closes"]))
            if run.chunks:
                state = self._unflatten(f"{r}/state", like)
                run.chunks[-1] = run.chunks[-1]._replace(state=state)
            runs.append(run)
        return runs

    def save(self, runs: Sequence[Run], facts: Mapping[str, Any], *, now: bool = False) -> None:
        """Write the runs, unless that was done a moment ago; ``now`` writes in any case.

        ``facts`` join the header.
        """
        wait = max(SECONDS, self._cost / SHARE)
        if not now and time.monotonic() - self._written < wait:
            return
        start = time.monotonic()
        arrays: dict[str, np.ndarray] = {}
        described = []
        for r, run in enumerate(runs):
            _flatten(arrays, f"{r}/first", run.first)
            arrays[f"{r}/elbo"] = np.concatenate([np.zeros(0), *(c.elbo for c in run.chunks)])
            watched = list(run.chunks[0].variance) if run.chunks else []
            if run.chunks:
                _flatten(arrays, f"{r}/state", run.state)
                means = jax.tree.map(lambda *v: np.stack(v), *(c.mean for c in run.chunks))
                _flatten(arrays, f"{r}/mean", means)
            for name in watched:
                arrays[f"{r}/variance/{name}"] = np.stack([c.variance[name] for c in run.chunks])
            if run.diverged is not None:
                arrays[f"{r}/diverged"] = run.diverged
            seen = run.iterates
            described.append(
                {
                    "lengths": [len(c.elbo) for c in run.chunks],
                    "closes": [k for k, chunk in enumerate(run.chunks) if chunk.closes],
                    "watched": watched,
                    "iterates": [seen.r_hat, seen.error] if seen else None,
                    "looked": run.looked,
                    "stopped": run.stopped,
                    "diverged": run.diverged is not None,
                }
            )
        header = {"numbers": self._numbers, **facts, "runs": described}
        self._file.write_arrays(header, arrays)
        self._written = time.monotonic()
        self._cost = self._written - start

    def _unflatten(self, prefix: str, like: Any) -> Any:
        leaves, tree = jax.tree.flatten(like)
        return jax.tree.unflatten(
            tree, [_as_leaf(self._stored[f"{prefix}/{i}"], v) for i, v in enumerate(leaves)]
        )


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _flatten(arrays: dict[str, np.ndarray], prefix: str, tree: Any) -> None:
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        arrays[f"{prefix}/{i}"] = np.asarray(data)


def _as_leaf(stored: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(like))
    return stored if isinstance(like, np.ndarray) else jnp.asarray(stored)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values) or "not known"


# -- what a fit is ---------------------------------------------------------------------------------


def check_checkpoint(method: SVIOptions, target: Target) -> None:
    """Raise a :class:`CheckpointError` for a checkpoint that could not be written or gone on from.

    As far as can be told before anything is compiled: the seed, the guide's parameters and the
    optimiser are compared when the fit begins.
    """
    if method.checkpoint is None:
        return
    path = Path(method.checkpoint)
    _check_place(path)
    if path.exists():
        KeptFile(path, _options_of(method, target), WORDS).read_arrays()


def _check_place(path: Path) -> None:
    if not path.parent.is_dir() or path.is_dir():
        raise CheckpointError(
            f"checkpoint: got '{path}', expected a file in a folder that exists; "
            f"make '{path.parent}', or give another path"
        )
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(
            f"checkpoint: '{path}' cannot be written; choose another folder than '{path.parent}'"
        )


def _options_of(method: SVIOptions, target: Target) -> dict[str, str]:
    """Return what a fit must have in common with its checkpoint, of the target and the options."""
    data = ", ".join(f"{name} {list(np.shape(v))}" for name, v in target.data.items())
    size = method.batches.batch_size if method.batches is not None else method.batch_size
    rows = "all" if size is None else f"{size} at a time, of plate {method.plate or 'by default'}"
    if method.batches is not None:
        rows += f", of {method.batches.num_rows} from elsewhere"
    return {
        "model": target.name,
        "data": f"{data} (fingerprint {target.fingerprint})",
        "rows": rows,
        "objective": f"{method.objective}, draws {method.draws}, alpha {method.alpha}",
        "precision": method.dtype,
        "init": method.init,
    }


def checkpoint_of(
    method: SVIOptions,
    target: Target,
    key: jax.Array,
    start: np.ndarray,
    engine: Engine,
    state: Any,
) -> Checkpoint | None:
    """Return a method's checkpoint, with what a fit must have in common with it to go on from it.

    Parameters
    ----------
    method
        The method; ``None`` is returned where it asks for no checkpoint.
    target, key
        What is fitted, and its seed.
    start
        The default starting point, unconstrained.
    engine, state
        NumPyro's, and its first state.
    """
    if method.checkpoint is None:
        return None
    params = engine.optim.get_params(state.optim_state)
    identity = {
        **_options_of(method, target),
        "guide": f"{method.options()['guide']}, with parameters {shapes_of(params)}",
        "optimizer": f"one with state {shapes_of(state.optim_state)}",
        "seed": str(np.asarray(jax.random.key_data(key)).tolist()),
    }
    moves = target.compiled_once(
        ("moves of SVI's optimiser", ByIdentity(engine)), lambda: jax.jit(moves_of(engine.optim))
    )
    numbers = {
        "log density at the start": [target.log_density(start)],
        "optimizer's way from given gradients": [float(v) for v in moves(params)],
    }
    if method.optimizer is None:
        numbers["step_size"] = schedule_of(method.first_step_size)
    return Checkpoint(method.checkpoint, identity, numbers)


def shapes_of(tree: Any) -> str:
    """Return names, shapes and types of a tree of arrays, in words."""
    return ", ".join(
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    )


def moves_of(optimizer: Any) -> Callable[[Any], list[jax.Array]]:
    """Return ``params -> how far each of three steps goes from made-up gradients``; pure.

    An optimiser, here NumPyro's, is code and has no other mark.
    """

    def probe(params: Any) -> list[jax.Array]:
        gradients = jax.tree.map(
            lambda p: (0.5 + jnp.arange(p.size) % 3).reshape(p.shape).astype(p.dtype), params
        )
        state, moves = optimizer.init(params), []
        for _ in range(3):
            before = optimizer.get_params(state)
            state = optimizer.update(gradients, state, value=jnp.asarray(1.0))
            moved = jax.tree.map(jnp.subtract, optimizer.get_params(state), before)
            moves.append(optax.tree.norm(moved))
        return moves

    return probe


def schedule_of(step_size: Any) -> list[float]:
    """Return a step size, or what a schedule of step sizes is at some steps."""
    if callable(step_size):
        return [float(step_size(jnp.asarray(step))) for step in PROBES]
    return [float(step_size)]

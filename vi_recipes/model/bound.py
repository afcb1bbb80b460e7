"""A model function with its data, traced arrays apart."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import MadeOnce, ModelError, bind_parts, called
from vi_recipes.data import aligned, bind, fingerprint
from vi_recipes.model.model import Model
from vi_recipes.model.observed import with_observed_arrays
from vi_recipes.model.spread import Spread

Arrays = tuple[Any, ...]
"""The traced data of a target, as JAX arrays; see :meth:`BoundModel.arrays`."""


@contextmanager
def concrete() -> Iterator[None]:
    """Have the block compute numbers, also while something is traced.

    Where nothing is, it is left alone: JAX would run what the block compiles operation by
    operation, a small program each.
    """
    if isinstance(jnp.asarray(np.zeros(())), jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            yield
    else:
        yield


class BoundModel:
    """A NumPyro model function and its data.

    Parameters
    ----------
    model
        The function with what the comparison needs to know of it.
    data
        Its keyword arguments.
    """

    def __init__(self, model: Model, data: dict[str, Any]) -> None:
        bind_parts("numpyro")
        given = bind(model.function, _with_defaults(model, data))
        model = _with_own_containers(model, given)
        model = dataclasses.replace(model, function=with_observed_arrays(model.function))
        self.model = model
        self.complete_model = model
        """The model as it was given, with its discrete latent variables where it has some."""
        self.name = model.name
        self.fingerprint = fingerprint(given)
        self.compiled_once = MadeOnce()
        """``(key, make) -> made``: compiled code, and what was found out, once a target."""
        self.compiled_for_any_data = MadeOnce()
        """Like :attr:`compiled_once`, for code that takes the data as arguments from
        :meth:`arrays`: :meth:`~vi_recipes.model.target.Target.with_data` passes it on."""
        self.spread: Spread | None = None
        """Where the rows lie, if they are divided over devices."""
        self.padded_rows = 0
        """Rows without weight among them, which fill them up."""
        leaves = jax.tree.leaves_with_path(given, is_leaf=_is_none)
        self._arguments = tuple(given)
        self._paths = [path for path, _ in leaves]
        self._leaves = [read_only(leaf) for _, leaf in leaves]
        self._treedef = jax.tree.structure(given, is_leaf=_is_none)
        self._trace_leaves([isinstance(leaf, np.ndarray) for leaf in self._leaves])

    @property
    def data(self) -> dict[str, Any]:
        """The keyword arguments: containers of their own each time, arrays that are not written.

        What a model does to its arguments is so no matter to whoever reads them next.
        """
        tree = jax.tree.unflatten(self._treedef, self._leaves)
        return {name: tree[name] for name in self._arguments}

    def _trace_leaves(self, is_traced: Sequence[bool]) -> None:
        """Say which leaves of the data are traced; the others are constants of compiled code."""
        self._is_traced = is_traced
        self._arrays = tuple(x for t, x in zip(is_traced, self._leaves, strict=True) if t)
        self._on_device: dict[bool, Arrays] = {}

    def arrays(self) -> Arrays:
        """Return the traced data as JAX arrays of the precision in force."""
        double = bool(jax.config.jax_enable_x64)
        if double not in self._on_device:
            with concrete():
                self._on_device[double] = tuple(self.place(a) for a in self._arrays)
        return self._on_device[double]

    def place(self, array: np.ndarray, axis: int = 0) -> jax.Array:
        """Return an array where computations are to find it.

        Along ``axis`` it may have an entry a row; see :class:`~vi_recipes.model.spread.Spread`.
        """
        return jax.device_put(array) if self.spread is None else self.spread.place(array, axis)

    def own(self, value: jax.Array, axis: int = 0) -> np.ndarray:
        """Return a computed array; of one with an entry a row along ``axis`` this host's rows."""
        return np.asarray(value) if self.spread is None else self.spread.own(value, axis)

    def share_rows(self, filled: BoundModel) -> None:
        """Have the rows be the first ones of another target's, which has the same and more."""
        known = dict(zip(filled._paths, filled._leaves, strict=True))
        leaves = []
        for path, leaf in zip(self._paths, self._leaves, strict=True):
            same = known[path]
            longer = isinstance(leaf, np.ndarray) and leaf.shape != same.shape
            leaves.append(read_only(same[: len(leaf)]) if longer else leaf)
        self._leaves = leaves
        self._trace_leaves(self._is_traced)

    @property
    def num_hosts(self) -> int:
        """How many hosts the rows are divided over; each has only its own in :attr:`data`."""
        return 1 if self.spread is None else self.spread.num_hosts

    def check_undivided(self) -> None:
        """Raise a :class:`ValueError` unless this host has all rows, and those alone."""
        if self.num_hosts > 1:
            lie = f"lie on {self.num_hosts} hosts"
        elif self.padded_rows:
            lie = f"are filled up by {self.padded_rows} without weight"
        else:
            return
        raise ValueError(
            f"target: the rows of model '{self.name}' {lie}, and this is row by row: take the "
            "target as it was before vr.shard, which is target.undivided"
        )

    def keywords(self, arrays: Arrays) -> dict[str, Any]:
        """Return the model's keyword arguments with ``arrays`` in the traced places."""
        traced = iter(arrays)
        leaves = [
            next(traced) if is_traced else leaf
            for leaf, is_traced in zip(self._leaves, self._is_traced, strict=True)
        ]
        return dict(jax.tree.unflatten(self._treedef, leaves))

    @property
    def traced_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of :meth:`arrays`: of this host's rows, where several have them."""
        return [array.shape for array in self._arrays]

    @property
    def traced_arguments(self) -> tuple[str, ...]:
        """Arguments of the model that :meth:`arrays` holds, in its order; the outer ones' names.

        An array that is not among them fixes shapes by its values, such as the codes of groups
        where the model counts the groups itself.
        """
        pairs = zip(self._paths, self._is_traced, strict=True)
        return tuple(str(path[0].key) for path, traced in pairs if traced)

    def place_of(self, argument: str) -> int:
        """Return where in :meth:`arrays` a floating-point argument of the model is.

        Raises
        ------
        ValueError
            For an argument that is not one array of floating-point numbers.
        """
        places = {
            name: sum(self._is_traced[:leaf])
            for name, leaf in self._traced_leaf_of().items()
            if self._leaves[leaf].dtype.kind == "f"
        }
        if argument not in places:
            raise ValueError(
                f"argument: got '{argument}', expected a floating-point array among the model's "
                f"arguments: {', '.join(places) or 'there is none'}"
            )
        return places[argument]

    def _traced_leaf_of(self) -> dict[str, int]:
        """Return which leaf of the data every argument is that is one traced array."""
        return {
            str(path[0].key): leaf
            for leaf, (path, traced) in enumerate(zip(self._paths, self._is_traced, strict=True))
            if traced and len(path) == 1
        }


def read_only(leaf: Any) -> Any:
    """Return an array as a view that cannot be written to, anything else as it is.

    A large one that JAX would copy is copied here, and JAX takes that as it is.
    """
    if not isinstance(leaf, np.ndarray):
        return leaf
    view = aligned(leaf).view()
    view.flags.writeable = False
    return view


def _with_own_containers(model: Model, given: Mapping[str, Any]) -> Model:
    """Return a model each of whose calls has containers and changeable defaults of its own."""
    known = inspect.signature(model.function).parameters
    kept = {
        name: copy.deepcopy(parameter.default)
        for name, parameter in known.items()
        if name not in given and isinstance(parameter.default, list | dict | set | np.ndarray)
    }
    if not kept and not any(isinstance(value, Mapping) for value in given.values()):
        return model

    return dataclasses.replace(model, function=_OwnContainers(model.function, kept))


class _OwnContainers:
    """A model's function; it can be sent to another process if that can."""

    def __init__(self, function: Callable[..., Any], kept: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._kept = function, kept

    def __call__(self, **arguments: Any) -> Any:
        # one call to a density runs the model more than once; arrays are not copied
        own = jax.tree.map(lambda leaf: leaf, arguments, is_leaf=_is_none)
        return self._function(**(copy.deepcopy(self._kept) | own))


def _is_none(leaf: Any) -> bool:
    return leaf is None  # an argument that is None is a leaf


def _with_defaults(model: Model, data: dict[str, Any]) -> dict[str, Any]:
    if model.data is None:
        return data
    known = inspect.signature(model.function).parameters
    required = [n for n, p in known.items() if p.default is p.empty]
    if data and all(name in data for name in required):
        return data
    what = f"the data function of model '{model.name}'"
    own = called(what, model.data)
    if not isinstance(own, Mapping):
        raise ModelError(
            f"{what} returned {type(own).__name__}, expected a mapping: argument -> value"
        )
    return {**own, **data}

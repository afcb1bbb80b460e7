"""A mark of what a model computes, by which a later process tells whether it is the same model."""

from __future__ import annotations

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import constants_in
from vi_recipes.model.target import Target

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def model_mark(target: Target) -> str:
    """Return a mark of the model's log density as a program: another where the model was changed.

    It is of the traced operations and of the arrays that the model closes over, and not of its
    data, of which :attr:`~vi_recipes.model.target.Target.fingerprint` is. It
    differs between versions of JAX.
    """
    return target.compiled_once("model mark", lambda: _mark(target))


def _mark(target: Target) -> str:
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(target.log_density_fn)(np.zeros(target.dim), target.arrays())
    digest = hashlib.sha256(_ADDRESS.sub("", str(traced.jaxpr)).encode())
    for constant in constants_in(traced):
        key = jnp.issubdtype(jax.typeof(constant).dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(constant) if key else constant).tobytes())
    return digest.hexdigest()[:16]

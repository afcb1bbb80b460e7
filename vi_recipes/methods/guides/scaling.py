"""Log densities in a plate counted several times, as minibatches of its members are."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, override

import jax.numpy as jnp
from numpyro.primitives import Messenger

_ACTIVE: ContextVar[ScaleUp | None] = ContextVar("what is drawn", default=None)


class ScaleUp(Messenger):  # type: ignore[misc]
    """Counts the log densities in some plates several times.

    Parameters
    ----------
    factor
        How many times.
    plates
        Their names -> weights of their members, one each, or ``None`` where all count.
    """

    def __init__(self, factor: float, plates: Mapping[str, Any]) -> None:
        self.factor, self.plates = factor, plates
        super().__init__()

    def __enter__(self) -> Any:
        self._token = _ACTIVE.set(self)
        return super().__enter__()

    def __exit__(self, *args: Any) -> Any:
        _ACTIVE.reset(self._token)
        return super().__exit__(*args)

    @override
    def process_message(self, msg: dict[str, Any]) -> None:
        """Look at one message."""
        if msg["type"] != "sample":
            return
        for plate, weights in self.plates.items():
            dim = dim_of(msg, plate)
            if dim is not None:
                scale: Any = self.factor
                if weights is not None:
                    scale = scale * jnp.reshape(weights, (-1, *[1] * (-1 - dim)))
                msg["scale"] = scale * (1.0 if msg["scale"] is None else msg["scale"])
                return


def active_scale() -> ScaleUp:
    """Return what scales up around the caller; one that changes nothing where nothing does."""
    return _ACTIVE.get() or ScaleUp(1.0, {})


def dim_of(site: Mapping[str, Any], plate: str) -> int | None:
    """Return the dimension of a plate in a site's batch shape, from the right."""
    return next((f.dim for f in site["cond_indep_stack"] if f.name == plate), None)

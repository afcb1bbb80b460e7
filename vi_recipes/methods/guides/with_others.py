"""Blocks of a guide whose draws need those of its other blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, override

import jax
from numpyro.infer import autoguide


class DrawnWithOthers(autoguide.AutoGuide):  # type: ignore[misc]
    """A block that is drawn as a part of its guide alone."""

    @override
    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Refuse: without the other blocks there is nothing to draw from."""
        raise NotImplementedError("drawn with the other blocks: use numpyro.infer.Predictive")

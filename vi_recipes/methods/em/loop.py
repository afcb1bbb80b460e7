"""The iterations that both routes of EM make, accelerated where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from vi_recipes.core import Progress
from vi_recipes.latent import Ascent, State, Step, TargetCompiler, squarem


@dataclass(frozen=True)
class Loop:
    """How long EM iterates, and whether by SQUAREM.

    Parameters
    ----------
    max_steps, tolerance, accelerate
        See :class:`vi_recipes.EM`.
    progress
        Told of every call of compiled code.
    """

    max_steps: int
    tolerance: float
    accelerate: bool
    progress: Progress

    def ascent(self, length: int) -> Ascent:
        """Return what iterates, ``length`` iterations in one call of compiled code."""
        return Ascent(
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            length=length,
            progress=self.progress,
        )

    def run(
        self,
        ascent: Ascent,
        step: Step,
        state: State,
        compiler: TargetCompiler,
        is_at_maximum: Callable[[State, np.ndarray], bool] | None,
        inputs: Any = None,
    ) -> tuple[State, Float[np.ndarray, "iterations starts"]]:
        """Return the last states and the objective of ``step``; see :meth:`Ascent.run`."""
        compiler = replace(compiler, key=(*compiler.key, self.accelerate))
        step = squarem(step) if self.accelerate else step
        return ascent.run(step, state, compiler, is_at_maximum, inputs)

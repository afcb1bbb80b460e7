"""Seconds of compiling and of running, apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vi_recipes.core import Timing, timing
from vi_recipes.core.programs import work_of


def test_timing_charges_each_second_once() -> None:
    timing = Timing()
    with timing.running_compiled():
        timing.compile_seconds += 0.25  # as Timing.compile would, inside a running block
    assert timing.compile_seconds == 0.25
    assert timing.run_seconds == pytest.approx(-0.25, abs=0.05)  # the block took no time itself
    doubled = timing.compile(lambda x: 2 * x, np.float32(1.0))
    assert doubled(np.float32(3.0)) == 6
    assert timing.compile_seconds > 0.25
    assert timing.total_seconds == timing.compile_seconds + timing.run_seconds


def test_the_work_of_a_program_counts_steps_and_inner_programs() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return 2 * x + 1  # two numbers for each of three

    def scanned(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (inner(c), None), x, length=10)[0]

    three = jnp.zeros(3)
    assert work_of(jax.make_jaxpr(inner)(three).jaxpr) == 6
    assert work_of(jax.make_jaxpr(scanned)(three).jaxpr) == 60
    twice = jax.make_jaxpr(lambda x: scanned(x).sum() + jnp.exp(x))(three).jaxpr
    assert work_of(twice) == 60 + 1 + 3 + 3  # the sum, exp, and what is added


def test_what_computes_much_is_optimised_however_little_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: list[object] = []
    compile_ = jax.stages.Lowered.compile

    def compiled(self: jax.stages.Lowered, **kwargs: object) -> object:
        options.append(kwargs["compiler_options"])
        return compile_(self, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)

    def steps(number: int) -> None:
        def function(x: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda c, _: (c * x, None), x, length=number)[0]

        Timing().compile(function, jnp.zeros(100), calls=timing.CALLS_OF_A_SEARCH)

    steps(1_000)
    steps(1_000_000)
    assert options == [timing.COMPILED_QUICKLY, None]

"""What the tests share."""

from __future__ import annotations

import atexit
import ctypes.util
import gc
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

# Two processes have two cores between them: the threads of OpenBLAS, which spin while they wait for
# one another, take them from both.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The processes of pytest-xdist are told the width of a terminal, which none of them is.
os.environ.pop("COLUMNS", None)

# Most of the suite's time goes into compilation: code that is compiled quicker and runs slower
# takes a quarter off. Set before JAX starts; whoever sets the variable has it otherwise. Of no use:
# xla_cpu_parallel_codegen_split_count=1 and xla_cpu_opt_preset=FAST_COMPILE take nothing off that
# can be measured, and without fusion compilation takes three times as long. It goes by the length
# of the program, about 0.6 ms a line, and loops, about 0.1 s each; JAX's random numbers, each a
# loop, gain nothing unrolled into one kernel. Without the passes for while loops it takes a
# tenth less, and long loops take twice as long.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# One cache of compiled code serves all processes of a run: its workers, and the command lines that
# tests start. It is empty at first, unless whoever sets the variable has it otherwise. It has the
# smallest programs too: there are thousands, used over and over, and reading one takes a tenth of
# what compiling it does.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.environ.get("VI_RECIPES_TEST_CACHE")
    if cache is None:
        cache = tempfile.mkdtemp(prefix="vi_recipes_tests_")
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    jax.config.update("jax_compilation_cache_dir", cache)  # JAX has read the variables by now
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# A tenth of the suite's time is glibc's malloc, most of it XLA's as it compiles: where the machine
# has jemalloc, workers have it. What tests start has not: it is to be as a user's is.
JEMALLOC = "libjemalloc.so.2"
if "PYTEST_XDIST_WORKER" in os.environ and os.environ.get("LD_PRELOAD") == JEMALLOC:
    del os.environ["LD_PRELOAD"]

REFERENCES = Path(__file__).resolve().parents[2] / "shared" / "references"
"""Reference answers that are not part of the project; tests that need them skip without them."""


LONGEST = (
    "methods/test_conformance.py",
    "latent/test_curvature.py",
    "model/test_sharded_hosts.py",
    "formula/test_units_of_columns.py",
    "methods/test_general_em.py",
    "elbo/test_expectation.py",
    "methods/test_meanfield.py",
    "hostile/test_hostile.py",
    "test_pages.py",
    "methods/test_nested_correction.py",
    "methods/test_nested_tails.py",
    "models/test_em_models.py",
    "formula/test_crossed_lme4.py",
    "formula/test_statsmodels.py",
    "formula/test_predict.py",
    "model/test_target.py",
    "fit/test_arviz.py",
    "studies/test_em_is_vi.py",
    "methods/test_nested.py",
    "methods/test_marginal_mle.py",
    "methods/test_nested_field.py",
    "comparison/test_losses.py",
    "methods/test_em.py",
    "calibration/test_calibration.py",
    "fit/test_tampered.py",
    "models/test_em_canon.py",
    "methods/test_svi.py",
    "comparison/test_browser.py",
    "cells/test_cells_refused.py",
    "methods/test_jumps.py",
    "models/test_models.py",
    "latent/test_split.py",
    "test_canon.py",
    "formula/test_glmm.py",
    "core/test_code_cache.py",
    "comparison/test_study.py",
    "methods/test_nuts.py",
    "methods/test_partial_em.py",
    "methods/test_nested_crossed.py",
    "cli/test_faults.py",
    "methods/test_svi_runs.py",
    "cli/test_cli.py",
    "methods/test_pathfinder.py",
    "models/test_more_models.py",
    "comparison/test_resume.py",
    "methods/test_units.py",
    "sweeps/test_sweeps.py",
    "methods/test_minibatch.py",
    "test_manual.py",
    "trust/test_assess.py",
    "core/test_watch.py",
    "elbo/test_looks.py",
    "latent/test_compression.py",
    "elbo/test_kl.py",
    "elbo/test_factors.py",
    "methods/test_nested_wide.py",
    "methods/test_em_bad_input.py",
    "model/test_enumeration.py",
    "methods/test_no_maximum.py",
    "elbo/test_wide_inputs.py",
    "methods/test_objectives.py",
    "methods/test_coupled_likelihood.py",
    "methods/test_nested_nodes.py",
    "fit/test_derived.py",
    "models/test_vi_canon.py",
    "cells/test_cells.py",
    "methods/test_variational_em.py",
    "comparison/test_elsewhere.py",
    "fit/test_loo.py",
    "methods/test_whitening.py",
    "comparison/test_yardstick.py",
    "studies/test_guide_studies.py",
    "models/test_references.py",
    "methods/test_svgd.py",
    "formula/test_effects.py",
    "methods/test_nested_kinks.py",
    "methods/test_several_modes.py",
    "latent/test_chains.py",
    "latent/test_free_energy.py",
    "cli/test_interrupts.py",
)
"""Files by the time that they take, longest first: a worker takes a whole file, and the last ones
are to end together."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the workers that are to begin allocate by jemalloc."""
    if session.config.getoption("tx") and ctypes.util.find_library("jemalloc") == JEMALLOC:
        os.environ.setdefault("LD_PRELOAD", JEMALLOC)


def pytest_collection_finish() -> None:
    """Look for garbage less often, and never again among what the imports have made.

    Tracing makes so many objects that Python's own thresholds cost a twentieth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first, then files by the number of their tests."""
    here = Path(__file__).parent
    names = {item.path: item.path.relative_to(here).as_posix() for item in items}
    counts = Counter(item.path for item in items)
    places = {name: place for place, name in enumerate(LONGEST)}

    def order(item: pytest.Item) -> tuple[int, int, str]:
        name = names[item.path]
        return places.get(name, len(LONGEST)), -counts[item.path], name

    items.sort(key=order)


@pytest.fixture(scope="session")
def references() -> Path:
    if not REFERENCES.is_dir():
        pytest.skip("the reference answers, ../shared/references beside the checkout, are absent")
    return REFERENCES


OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""XLA's own choice, whatever the variable above says."""


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is optimised for users is so here: for tests with more work than code."""
    from vi_recipes.core import timing

    chosen = timing.compiler_options

    def options(calls: int | None, args: Any) -> Any:
        return chosen(calls, args) or OPTIMISED

    monkeypatch.setattr(timing, "compiler_options", options)


@pytest.fixture(autouse=True)
def precision_is_left_alone() -> Iterator[None]:
    """Whatever a test does, JAX's global precision is afterwards what it was before."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 == before


MAPS = Path("/proc/self/maps")
MANY_MAPS = 20_000
"""Memory maps from which compiled code is let go: Linux ends a process that has 65,530."""


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_let_go() -> Iterator[None]:
    """Forget what test modules keep for one another before there is too much of it."""
    yield
    if not MAPS.exists() or len(MAPS.read_text().splitlines()) < MANY_MAPS:
        return
    here = Path(__file__).parent
    for module in list(sys.modules.values()):
        if here in Path(getattr(module, "__file__", None) or "/").parents:
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    jax.clear_caches()
    gc.collect()

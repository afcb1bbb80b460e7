"""What the tests share."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# Most of the suite's time goes into compilation: code that is compiled quicker and runs slower
# takes a quarter off. Set before JAX starts; whoever sets the variable has it otherwise.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# One cache of compiled code serves all processes of a run: its workers, and the command lines that
# tests start. It is empty at first, unless whoever sets the variable has it otherwise.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.environ.get("VI_RECIPES_TEST_CACHE")
    if cache is None:
        cache = tempfile.mkdtemp(prefix="vi_recipes_tests_")
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    jax.config.update("jax_compilation_cache_dir", cache)  # JAX has read the variables by now
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

REFERENCES = Path(__file__).resolve().parents[2] / "shared" / "references"
"""Reference answers that are not part of the project; tests that need them skip without them."""


@pytest.fixture(scope="session")
def references() -> Path:
    if not REFERENCES.is_dir():
        pytest.skip("the reference answers, ../shared/references beside the checkout, are absent")
    return REFERENCES


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

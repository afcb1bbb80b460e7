"""What a command does before it fits."""

import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from programs_for_tests import compiled_programs

import vi_recipes as vr
from vi_recipes.cli.prepare import looking_for_a_start


def heights(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    numpyro.sample("y", dist.Normal(mu, tau**-0.5), obs=y)


def test_a_start_that_was_looked_for_beside_imports_compiles_nothing_when_it_is_needed() -> None:
    def watched(y: Any) -> None:
        names.add(threading.current_thread().name)
        heights(y)

    names: set[str] = set()
    target = vr.Target(watched, y=np.array([1.0, 2.0, 4.0]))
    names.clear()
    with looking_for_a_start(target, 3):
        pass
    assert names == {"start"}  # in a thread of its own, which is over
    names.clear()
    with compiled_programs() as programs:
        found = target.start(jax.random.key(3))
    assert "start" not in names
    assert [name for name in programs if "seed" not in name] == []
    alone = vr.Target(heights, y=np.array([1.0, 2.0, 4.0])).start(jax.random.key(3))
    np.testing.assert_array_equal(found, alone)


def test_what_is_wrong_with_a_start_is_told_where_it_is_needed() -> None:
    def waits(y: Any) -> None:
        rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
        numpyro.sample("y", dist.Exponential(rate), obs=y)

    target = vr.Target(waits, y=np.array([1.0, -1.0]))
    before = list(warnings.filters)
    with looking_for_a_start(target, 0):
        pass
    assert warnings.filters == before
    with pytest.raises(ValueError, match="no finite density"):
        target.start(jax.random.key(0))


@pytest.mark.slow
def test_what_is_imported_ahead_is_what_weighs_and_keeps_a_fit(tmp_path: Path) -> None:
    """In a process of its own: this one has imported it all."""
    script = """
import sys
import jax, numpy as np, numpyro, numpyro.distributions as dist
import vi_recipes as vr
from vi_recipes.cli.prepare import import_what_follows

OURS = ("arviz_base", "arviz_stats", "h5netcdf", "xarray", "scipy.signal")

def loaded():
    return {name for name in OURS if name in sys.modules}

import_what_follows([vr.MAP()], kept=False)
assert not loaded(), loaded()
import_what_follows([vr.MAP()], kept=True)
assert "arviz_stats.base" not in sys.modules and "h5netcdf" in loaded()
import_what_follows([vr.MAP(), vr.MeanField()], kept=True)
known = loaded()

def model(y):
    mu = numpyro.sample("mu", dist.Cauchy(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

target = vr.Target(model, y=np.array([1.0, 2.0, 9.0]))
fit = vr.MeanField().fit(target, key=0)
vr.assess(fit, target, key=0)
fit.save(sys.argv[1])
assert loaded() == known == set(OURS), (known, loaded())
"""
    where = str(tmp_path / "fit.nc")
    done = subprocess.run(
        [sys.executable, "-c", script, where], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

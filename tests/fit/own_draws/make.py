"""Makes ``pymc.nc``: eight schools by PyMC, whose tree is one that the library did not make.

Needs pymc, which the project does not: ``pip install pymc h5netcdf && python make.py``. The model
is non-centred, as users of PyMC write it, so the latent site ``theta`` is one that it derives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pymc as pm

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

if __name__ == "__main__":
    with pm.Model(coords={"school": list("ABCDEFGH")}):
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        z = pm.Normal("z", 0.0, 1.0, dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        pm.Normal("y", theta, SIGMA, observed=Y, dims="school")
        tree = pm.sample(
            draws=300,
            tune=1000,
            chains=4,
            cores=1,
            target_accept=0.95,
            random_seed=1,
            progressbar=False,
        )
    kept = ("diverging", "energy", "tree_depth", "n_steps", "reached_max_treedepth", "lp")
    tree.sample_stats = tree.sample_stats[[name for name in kept if name in tree.sample_stats]]
    for group in ("posterior", "sample_stats"):
        data = getattr(tree, group)
        small = data.map(lambda v: v.astype("float32") if v.dtype.kind == "f" else v)
        setattr(tree, group, small.assign_attrs(data.attrs))
    place = Path(__file__).with_name("pymc.nc")
    tree.to_netcdf(str(place), groups=["posterior", "sample_stats"], engine="h5netcdf")

"""NUTS in coordinates whitened by linear response, beside NUTS as it is, on criteo.

Effective draws per second of the parameter that mixes worst, of all 5,007 and of each site. Seconds
are all of a fit's: compilation, the mean-field fit that whitens, warmup, draws.

    python benchmarks/nuts.py [--designs collinear,plain] [--draws 300]

The design is the default one, in which ``beta[x_1]`` and ``mu`` are nearly collinear, or one
without that. Every line is a fresh process with two chains.
"""

from __future__ import annotations

import argparse

import common
from common import Row


def fit(precondition: str, design: str, draws: str) -> None:
    """Fit criteo once by NUTS."""
    import vi_recipes as vr

    model = vr.load_model("criteo")
    assert model.simulate is not None
    target = vr.Target(model, **model.simulate(collinear=design == "collinear"))
    method = vr.NUTS(
        num_chains=2,
        num_warmup=int(draws),
        num_samples=int(draws),
        precondition="lrvb" if precondition == "lrvb" else "none",
    )
    found = method.fit(target, key=0)
    bulk = found.convergence()["ess_bulk"]
    ess = {name: float(bulk[name].min()) for name in ("mu", "beta", "tau", "u")}
    seconds = found.timing.compile_seconds + found.timing.run_seconds
    worst = min(ess.values())
    note = ", ".join(f"{name} {value:.0f}" for name, value in ess.items())
    row = Row(
        "",
        compile=found.timing.compile_seconds,
        fit=found.timing.run_seconds,
        note=f"smallest bulk ESS {worst:.1f}, {worst / seconds:.3g} a second ({note}); "
        f"R-hat up to {found.diagnostics['r_hat_max']:.3f}, "
        f"{found.diagnostics['num_steps_mean']:.0f} steps a draw",
    )
    common.emit([row])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", default="collinear,plain", help="%(default)s")
    parser.add_argument("--draws", type=int, default=300, help="of warmup, and kept, %(default)s")
    options = parser.parse_args()
    common.heading("NUTS on criteo, 61,895 rows, 5,000 groups")
    rows = []
    for design in options.designs.split(","):
        for precondition in ("lrvb", "none"):
            worker = common.worker(__file__, "fit", precondition, design, str(options.draws))
            run = common.measure(worker, time_limit=1_200)
            rows.append(common.one(run, f"{design}, precondition={precondition}", {}))
    common.print_costs(rows)
    print(common.load())


if __name__ == "__main__":
    if not common.is_worker({"fit": fit}):
        main()

"""Makes chains.json: the moments of a process behind 40 binary outcomes, by NumPyro's NUTS.

Run by hand, from the repository's root: ``PYTHONPATH=tests/methods python
tests/methods/binary_field/make.py``. The process is the root of its covariance by standard normals,
which NUTS samples well and nested quadrature is not asked for. Standard errors of means and sds are
sds over the root of the effective draws of x and of (x - mean)^2.
"""

import json
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from test_nested_field import outcomes, shape, whitened_field

CHAINS, WARMUP, DRAWS, SEED = 4, 1_000, 4_000, 20


def model(y: np.ndarray, x: np.ndarray) -> None:
    f = whitened_field(x, *shape())
    numpyro.sample("y", dist.Bernoulli(logits=f), obs=y)


def known(x: np.ndarray) -> dict[str, list[float]]:
    """Return means and sds of draws (chains, draws, ...), with their standard errors."""
    mean, sd = x.mean((0, 1)), x.std((0, 1))
    square = (x - mean) ** 2
    of_mean = sd / np.sqrt(effective_sample_size(x))
    of_sd = square.std((0, 1)) / np.sqrt(effective_sample_size(square)) / (2 * sd)
    moments = {"mean": mean, "sd": sd, "mean_error": of_mean, "sd_error": of_sd}
    return {k: np.round(np.atleast_1d(v), 5).tolist() for k, v in moments.items()}


def main() -> None:
    x, y = outcomes(40)
    with jax.enable_x64(True):
        mcmc = MCMC(
            NUTS(model, target_accept_prob=0.9),
            num_warmup=WARMUP,
            num_samples=DRAWS,
            num_chains=CHAINS,
            chain_method="sequential",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(SEED), y, x, extra_fields=("diverging",))
        draws = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    found = {name: known(draws[name]) for name in ("amplitude", "length", "f")}
    made = {
        "versions": {"jax": jax.__version__, "numpyro": numpyro.__version__},
        "chains": CHAINS,
        "warmup": WARMUP,
        "draws": DRAWS,
        "seed": SEED,
        "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
        "largest_rhat": round(max(float(np.max(split_gelman_rubin(draws[k]))) for k in found), 4),
    }
    text = json.dumps({"made": made, "known": found}, indent=1)
    (Path(__file__).parent / "chains.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

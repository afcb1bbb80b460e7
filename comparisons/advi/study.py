"""Mean field by stochastic gradients and by Newton's method: seconds to the same optimum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

import vi_recipes as vr
from vi_recipes.core import Progress

from .pictures import LEVELS, curves, table, told
from .races import BUDGET, CHUNK, NUM_CHUNKS, SHARED, STEP_SIZE, race

MODELS: dict[str, dict[str, Any]] = {
    "radon": {},
    "election88": {},
    "criteo": {"num_rows": 2_476, "num_groups": 200},
    "ecology_cjs": {},
}
"""Model -> arguments of its simulation; an empty one takes the model's own data."""


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Race stochastic gradients against Newton's method and NUTS, model by model."""
    races = []
    with jax.enable_x64(True):
        for done, (name, design) in enumerate(MODELS.items()):
            progress(done, len(MODELS), name)
            races.append(race(name, design, seed, comparison, target))
    yield vr.Exhibit(
        name="curves",
        title="Error against seconds",
        caption=(
            f"{told(races)} Lines are seconds of run, without compilation; open marks are where "
            "a first fit ends, compilation included. SVI: the largest distance of any "
            "posterior mean from that of the optimum of the mean-field ELBO, in NUTS's sds. "
            f"Plain: NumPyro's, independent normals, {CHUNK * NUM_CHUNKS:,} steps of Adam of size "
            f"{STEP_SIZE}, one draw a step, from medians of a few draws from the prior; the last "
            "iterate, and the average of the second half of those so far. By its own rule: "
            f"SVI(init='map'), whose steps fall, at most {BUDGET:,} of them; where there is no "
            "mode it starts at the default. NUTS: how far the mean of its draws so far is from "
            "that of all, made up for what both share; the curve begins after its warm-up. "
            "Upright: when Newton's method has the optimum, in a first fit and (dotted) in a "
            "second, and when linear response has its covariances besides. Dashed: how far that "
            "optimum is from NUTS's mean, error of the draws included, which no way to it can mend."
        ),
        content=curves(races),
    )
    yield vr.Exhibit(
        name="seconds",
        title="Seconds to a given accuracy",
        caption=(
            "Compile: seconds of a first fit beside its run. Within: seconds of run until every "
            f"mean comes and stays within {LEVELS[0]:g} or {LEVELS[1]:g} posterior sds, for plain "
            "SVI by the average of its iterates. SVI is measured from the optimum that Newton's "
            "method found, NUTS from the mean of all its draws. Error at the end: there, and for "
            f"NUTS where its curve ends, at {SHARED:.0%} of its draws."
        ),
        content=table(races),
    )


STUDY = vr.Study(
    name="advi",
    model="radon",
    methods={
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "nuts": vr.NUTS(noncentered=("a",), num_samples=2_000),
    },
    reference="nuts",
    description=(
        "Radon by mean field, linear response and NUTS, and four hierarchical models by mean field "
        "three times: its ELBO maximised by Newton's method on a deterministic form of it, by "
        "stochastic gradients with a fixed step size (ADVI), and by stochastic gradients with "
        "what the library adds: a start at the mode, steps that fall, and a rule that ends them. "
        "radon, election88 and criteo (a few groups of it) have expectations by one-dimensional "
        "quadrature; those of ecology_cjs need draws. Posteriors are hard for fixed steps in "
        "three ways: nearly collinear coefficients (criteo), vague priors whose medians are far "
        "from the posterior (election88), and a flat valley of the ELBO (radon). NUTS is laid "
        "beside them, and so is what no way to the optimum can mend, its distance from NUTS's "
        "means. No stochastic run has covariances: its sds are mean field's."
    ),
    exhibits=exhibits,
)

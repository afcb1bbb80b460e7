"""Radon in Minnesota: where the joint mode collapses and what the fast methods make of it."""

import vi_recipes as vr
from vi_recipes.comparison import reference_exhibits

STUDY = vr.Study(
    name="radon",
    model="radon",
    methods={
        "map": vr.MAP(),
        "laplace": vr.Laplace(),
        "svi": vr.SVI(num_steps=30_000),
        "svi_lowrank": vr.SVI(guide="lowrank_normal", num_steps=30_000),
        "svi_full": vr.SVI(guide="multivariate_normal", num_steps=30_000),
        "nuts": vr.NUTS(noncentered=("a",), num_samples=2_000),
    },
    reference="nuts",
    exhibits=reference_exhibits(),
    description=(
        "919 houses in 85 counties. The joint mode runs to sigma_a = 0, so MAP has no answer and "
        "Laplace nothing to expand around. Mean field gets the means of what the data pin down and "
        "understates the sds of mu_a, b and sigma_a, which share information with the county "
        "intercepts; a full covariance brings back all but that of sigma_a, which is skewed."
    ),
)

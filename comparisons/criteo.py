"""Criteo: clicks in 5,000 groups, where the fast methods part company over the spread."""

from pathlib import Path

import vi_recipes as vr

STUDY = vr.Study(
    name="criteo",
    model="criteo",
    methods={
        "map": vr.MAP(),
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(factors={"tau": "gamma"}),
        "lrvb": vr.LinearResponse(base=vr.MeanField(factors={"tau": "gamma"})),
    },
    # 4 x 2,500 draws with their audit; to draw again: vi-recipes fit criteo --method nuts
    reference=Path(__file__).with_suffix(".json"),
    description=(
        "Random-effects logistic regression, 61,895 rows in 5,000 groups, with the published "
        "collinearity of the first covariate and the mean of the groups' effects. The joint mode "
        "collapses: all effects become one value and tau some 800, so MAP's tau means nothing and "
        "Laplace has nothing to expand around. Mean field gets the means and understates the sds "
        "of beta[x_1] and mu by more than an order of magnitude; linear response repairs them, of "
        "all 5,007 parameters, from the same optimum. The reference is a stored run of NUTS."
    ),
)

"""Election 1988: much data and a scale away from zero, where the fast methods should do well."""

import vi_recipes as vr
from vi_recipes.comparison import reference_exhibits

STUDY = vr.Study(
    name="election88",
    model="election88",
    methods={
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "A simulated poll of 11,566 respondents in 51 states, two of them empty: logistic "
        "regression with an intercept per state. There is much data, and the sd of the states is "
        "away from zero. Mean field has all means and nearly all sds; it understates that of "
        "b[female], which leans on the intercepts of all states, and those of mu_a and sigma_a. "
        "Linear response repairs them. Laplace expands around the joint mode, whose sigma_a is too "
        "small: states are pulled too close together, and those with few respondents or none have "
        "too small an sd."
    ),
    exhibits=reference_exhibits(
        "After figure 7 of Giordano, Broderick and Jordan (2018), JMLR 19(51)."
    ),
)

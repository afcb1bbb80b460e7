"""Sesame Street: an instrument whose effect and a correlation say nearly the same."""

import vi_recipes as vr
from vi_recipes.comparison import reference_exhibits

STUDY = vr.Study(
    name="sesame_street",
    model="sesame_street",
    methods={
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "nuts": vr.NUTS(dense_mass=True, num_samples=2_000),
    },
    reference="nuts",
    description=(
        "Simulated children of an encouragement design, 240 in 9 groups, with two correlated "
        "outcomes. b, the effect of watching, and rho_yt, what goes with watching, say nearly the "
        "same; so do b and the intercepts a. Mean field, which has them independent, understates "
        "their sds, and that of b most; linear response brings most of it back. The joint density "
        "has no maximum, so Laplace has nothing to expand around."
    ),
    exhibits=reference_exhibits(
        "After figure 8 of Giordano, Broderick and Jordan (2018), JMLR 19(51)."
    ),
)

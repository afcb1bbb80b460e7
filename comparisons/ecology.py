"""Ecology: survival of marked animals, where the sd of the years is little more than bounded."""

import vi_recipes as vr
from vi_recipes.comparison import reference_exhibits

STUDY = vr.Study(
    name="ecology",
    model="ecology_cjs",
    methods={
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        # sigma's funnel: at the default target some trajectories diverge
        "nuts": vr.NUTS(noncentered=("epsilon",), target_accept_prob=0.98, num_samples=2_000),
    },
    reference="nuts",
    description=(
        "Captures and recaptures of 285 simulated animals over 20 occasions: a Cormack-Jolly-Seber "
        "model with a covariate and a random effect of each year. sigma, the sd of these effects, "
        "is little more than bounded by the data, and its posterior is skewed: mean field "
        "understates its spread severalfold, and those of the effects less. Linear response "
        "brings most of sigma's back and leaves the effects', which are mixtures over sigma, too "
        "small. The joint density has no maximum, as sigma may go to 0, so Laplace has nothing to "
        "expand around."
    ),
    exhibits=reference_exhibits(
        "After figure 10 of Giordano, Broderick and Jordan (2018), JMLR 19(51)."
    ),
)

"""Old Faithful: EM beside the posterior of the same two-component normal mixture."""

import vi_recipes as vr

STUDY = vr.Study(
    name="gmm",
    model="gmm",
    methods={
        "em": vr.EM(num_restarts=10),
        "em_map": vr.EM(objective="map", num_restarts=10),
        "map": vr.MAP(),
        "laplace": vr.Laplace(),
        "svi": vr.SVI(),
        "svi_full": vr.SVI(guide="multivariate_normal"),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "272 eruptions, two components with full covariances. EM climbs to the maximum likelihood "
        "or, with the prior, to the same mode as MAP, which finds it by Newton steps on the "
        "marginal density. Labels are exchangeable and are matched before anything is compared."
    ),
)

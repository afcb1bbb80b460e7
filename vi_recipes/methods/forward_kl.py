"""Forward KL: the normal with the posterior's own moments, from draws or importance sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import (
    WIDEST_SCATTER,
    MethodFailure,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
    shapes_of,
    split_key,
)
from vi_recipes.fit import Fit
from vi_recipes.importance import (
    KHAT_LIMIT,
    Adapted,
    Bound,
    LogEvidence,
    Proposal,
    Weights,
    adapt,
    log_mean,
    make_round,
    root_of,
    shape_in_words,
    smooth,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Target
from vi_recipes.posterior import MatchedPosterior, per_scalar


@dataclass(frozen=True, kw_only=True)
class ForwardKL(Method):
    """Minimise KL(p || q) over normals q on the unconstrained scale: q takes p's own moments.

    Of all normals the one with the posterior's mean and covariance is closest in this direction,
    and of all independent ones that with its means and sds: there is nothing to optimise, only
    expectations under the posterior to be known. They come from the draws of another fit, or from
    importance sampling: rounds of draws from a multivariate t with five degrees of freedom, each
    with the weighted moments of the one before, tempered while few weights matter, until the
    effective share of the draws no longer rises. The last round's Pareto-smoothed weights give the
    answer. Such a q covers all of the posterior's mass, and what lies between its modes. Means and
    sds on the model's scale are those of q: they are the posterior's own for unconstrained sites.

    Parameters
    ----------
    family
        ``"normal"`` (independent) or ``"multivariate_normal"``.
    reference
        A fit of the same target whose draws are matched, such as NUTS's; ``None`` for importance
        sampling.
    num_draws
        Draws of a round of importance sampling, or of a reference that can give any number.
    num_rounds
        Rounds, at most.
    proposal_sd
        Sd of the first proposal on the unconstrained scale, in units of the coordinates
        (:mod:`vi_recipes.model.units`), around the model's own ``init`` where
        it has one, else around prior medians. Modes that it does not reach are not found.

    References
    ----------
    Cappé, O., Douc, R., Guillin, A., Marin, J.-M. and Robert, C. P. (2008). Adaptive importance
    sampling in general mixture classes. Statistics and Computing 18. doi:10.1007/s11222-008-9059-x
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72). arXiv:1507.02646.
    """

    key: ClassVar[str] = "forward_kl"

    summary: ClassVar[str] = (
        "the normal with the posterior's own moments, KL(p || q): covers all mass; as good as the "
        "draws or the importance weights"
    )
    by_default: ClassVar[bool] = False

    family: Literal["normal", "multivariate_normal"] = "normal"
    reference: Fit | None = field(default=None, repr=False)
    num_draws: int = 10_000
    num_rounds: int = 40
    proposal_sd: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.family in ("normal", "multivariate_normal"),
            "family",
            self.family,
            "'normal' or 'multivariate_normal'",
        )
        require(
            self.reference is None or isinstance(self.reference, Fit),
            "reference",
            type(self.reference).__name__,
            "a Fit, or None for importance sampling",
        )
        require_count("num_draws", self.num_draws, least=100)
        require_count("num_rounds", self.num_rounds)
        require_number("proposal_sd", self.proposal_sd, most=WIDEST_SCATTER)

    @property
    @override
    def name(self) -> str:
        return self.key if self.family == "normal" else f"{self.key}_{self.family}"

    @override
    def applies(self, target: Target) -> str | None:
        if self.reference is not None:
            made_for = self.reference.provenance
            ours = (target.name, target.fingerprint)
            require(
                (made_for.model, made_for.data_fingerprint) == ours,
                "reference",
                f"{self.reference.method} of model '{made_for.model}'",
                f"a fit of model '{target.name}' on the same data",
            )
            return None
        if target.exchangeable:
            names = ", ".join(name for group in target.exchangeable for name in group.sites)
            return (
                f"importance sampling leaves the labels of {names} unmatched, and their moments "
                "mean nothing: give it draws with matched labels, reference=NUTS().fit(target)"
            )
        if self.num_draws < 20 * target.dim:
            return (
                f"{self.num_draws} weighted draws cannot show the covariance of {target.dim} "
                "coordinates: raise num_draws, or give it draws, reference=NUTS().fit(target)"
            )
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        if self.reference is not None:
            with timing.running():
                return self._match(self.reference, target, key)
        return self._sample(target, key, timing, progress)

    # -- from draws ------------------------------------------------------------------------------

    def _match(self, reference: Fit, target: Target, key: jax.Array) -> Result:
        if not reference.has_result:
            raise MethodFailure(
                Status.NOT_APPLICABLE, f"the reference has no result: {reference.explanation}"
            )
        try:
            if reference.is_sampler:
                tree = reference.to_arviz()["posterior"]
                draws = {s.name: np.asarray(tree[s.name]) for s in target.latents}
            else:
                draws = {n: v[None] for n, v in reference.draws(self.num_draws, key).items()}
        except ValueError as reason:
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"the reference, {reference.method}, cannot be matched: {reason}",
                "give a fit that has draws",
            ) from None
        leading = draws[target.latents[0].name].shape[:2]
        flat = {s.name: draws[s.name].reshape(-1, *s.shape) for s in target.latents}
        z = target.unconstrain_rows(flat)
        chains = {"z": z.reshape(*leading, target.dim)}
        weights = Weights(np.full(len(z), 1 / len(z)))
        if reference.is_sampler:
            error, error_sd = (per_scalar("mcse", chains, method=m)["z"] for m in ("mean", "sd"))
        else:
            error = z.std(axis=0) / np.sqrt(len(z))
            error_sd = error / np.sqrt(2)
        mean, cov = weights.moments(z)
        posterior = self._posterior(target, mean, cov, error, error_sd)
        source = f"{len(z)} draws of {reference.method} ({reference.status.value})"
        return Result(
            posterior,
            Status.OK if reference.status.ok else Status.UNCONVERGED,
            f"the moments of {source}",
            "" if reference.status.ok else f"mend {reference.method}: {reference.message}",
        )

    # -- by importance sampling ------------------------------------------------------------------

    def _sample(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        start_key, round_key = split_key(key)
        with timing.running():
            centre = target.start(start_key)
        arrays = target.arrays()
        proposal = Proposal(centre, self.proposal_sd * np.diag(target.units))
        first = round_key, jnp.asarray(proposal.loc), jnp.asarray(proposal.root), arrays
        weigh = target.compiled_once(
            ("round of importance sampling", self.num_draws, shapes_of(*first)),
            lambda: timing.compile(make_round(target, self.num_draws), *first),
        )

        def draw(done: int, q: Proposal) -> tuple[np.ndarray, np.ndarray]:
            drawn = weigh(jax.random.fold_in(round_key, done), q.loc, q.root, arrays)
            timing.density_evaluations += self.num_draws
            return np.asarray(drawn[0]), np.asarray(drawn[1])

        with timing.running():
            last = adapt(target, draw, proposal, self.num_rounds, progress)
            power = last.power
            if power < 1:
                raise MethodFailure(
                    Status.UNCONVERGED,
                    f"after {self.num_rounds} rounds the proposal has not reached the posterior: "
                    f"its weights had to be tempered to the power {power:.2g}",
                    "raise num_rounds and num_draws, or give draws, reference=NUTS().fit(target)",
                )
            return self._answer(target, last)

    def _answer(self, target: Target, last: Adapted) -> Result:
        z, ratios, shares = last.z, last.log_ratios, last.shares
        weights = smooth(ratios)
        mean, cov = weights.moments(z)
        marginals = weights.marginals(z)
        posterior = self._posterior(target, mean, cov, marginals.mcse_mean, marginals.mcse_sd)
        good = weights.khat < KHAT_LIMIT
        value, se = log_mean(ratios)
        return Result(
            posterior,
            Status.OK if good else Status.UNCONVERGED,
            f"the weighted moments of {len(z)} draws after {len(shares)} rounds: effectively "
            f"{weights.ess:.0f} draws, {shape_in_words(weights.khat)} (limit {KHAT_LIMIT})",
            "" if good else "raise num_draws, or give draws, reference=NUTS().fit(target)",
            trace={"effective_share": shares, "effective_share_step": np.arange(len(shares)) + 1},
            diagnostics={
                "ess": weights.ess,
                "khat": weights.khat,
                "num_rounds": float(len(shares)),
            },
            log_evidence=LogEvidence(value, se, Bound.ESTIMATE, "importance sampling")
            if good
            else None,
        )

    def _posterior(
        self,
        target: Target,
        mean: np.ndarray,
        cov: np.ndarray,
        error: np.ndarray,
        error_sd: np.ndarray,
    ) -> MatchedPosterior:
        root = root_of(cov, target)
        sd = np.sqrt(np.diagonal(cov))
        independent = self.family == "normal"
        return MatchedPosterior(
            target,
            mean,
            None if independent else root,
            sd if independent else np.zeros_like(sd),
            mcse_loc=error,
            mcse_log_scale=error_sd / sd,
        )

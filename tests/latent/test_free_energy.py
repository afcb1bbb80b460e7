"""The free energy: its identity, its two coordinates, and three ways up to one maximum."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import entropy, multivariate_normal, poisson

import vi_recipes as vr
from vi_recipes.latent.free_energy import LatentLaw, Normals, StateProbabilities


@cache
def target(name: str) -> vr.Target:
    return vr.Target(vr.load_model(name))


@cache
def energy(name: str) -> vr.FreeEnergy:
    return vr.FreeEnergy(target(name))


def another(q: LatentLaw, rng: np.random.Generator) -> LatentLaw:
    """Return a law that is nobody's posterior."""
    if isinstance(q, StateProbabilities):
        members, states = q.probabilities.shape
        return StateProbabilities(rng.dirichlet(np.ones(states), members))
    return Normals(q.mean + 0.1 * rng.standard_normal(q.mean.shape), 1.7 * q.cov)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radon", "times_deaths"])
def test_log_p_is_free_energy_plus_divergence(name: str) -> None:
    F, rng = energy(name), np.random.default_rng(0)
    for _ in range(3):
        theta = F.start + 0.2 * rng.standard_normal(F.start.size)
        right = F.log_likelihood(theta)
        exact = F.posterior(theta)
        assert F(exact, theta) == pytest.approx(right, rel=1e-12)
        assert F.divergence(exact, theta) == pytest.approx(0, abs=1e-9)
        q = another(exact, rng)
        assert F.divergence(q, theta) > 1
        assert F(q, theta) + F.divergence(q, theta) == pytest.approx(right, rel=1e-12)


@pytest.mark.slow
def test_log_likelihood_against_the_sum_itself() -> None:
    F = energy("times_deaths")
    values = {"pi": np.array([0.3, 0.7]), "log_lam": np.log([1.1, 2.5])}
    theta = F.unconstrain(values)
    y = np.asarray(target("times_deaths").data["y"])
    factorials = np.array([np.log(np.arange(1, k + 1)).sum() for k in y])
    rates = np.exp(values["log_lam"])
    terms = values["pi"] * np.exp(y[:, None] * np.log(rates) - rates)
    assert F.log_likelihood(theta) == pytest.approx(np.log(terms.sum(1)).sum() - factorials.sum())
    np.testing.assert_allclose(
        F.posterior(theta)[0], terms / terms.sum(1, keepdims=True), rtol=1e-10
    )
    np.testing.assert_allclose(F.constrain(theta)["pi"], values["pi"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radon", "times_deaths"])
def test_the_rise_of_log_p_is_that_of_q_and_a_divergence(name: str) -> None:
    """log p(y | theta') - log p(y | theta) = Q(theta') - Q(theta) + KL, wherever theta' is."""
    F, rng = energy(name), np.random.default_rng(4)
    theta, after = F.start + 0.2 * rng.standard_normal((2, F.start.size))
    q = F.posterior(theta)
    gained = F.q(q, after) - F.q(q, theta)
    kl = F.divergence(q, after)
    assert kl > 0.1
    assert abs(gained) > 0.1
    rise = F.log_likelihood(after) - F.log_likelihood(theta)
    assert gained + kl == pytest.approx(rise, abs=1e-9)
    law = another(q, rng)
    assert F.q(law, theta) + F.entropy(law) == pytest.approx(F(law, theta), rel=1e-13)


@pytest.mark.slow
def test_q_and_the_entropy_by_hand() -> None:
    F, rng = energy("times_deaths"), np.random.default_rng(5)
    pi, rates = np.array([0.3, 0.7]), np.array([1.1, 2.5])
    table = rng.dirichlet([1.0, 1.0], 1_096)
    table[0] = 1.0, 0.0  # a state that is out of the question adds nothing
    law = StateProbabilities(table)
    y = np.asarray(target("times_deaths").data["y"])
    log_joint = np.log(pi) + poisson(rates).logpmf(y[:, None])
    theta = F.unconstrain({"pi": pi, "log_lam": np.log(rates)})
    assert F.q(law, theta) == pytest.approx((table * log_joint).sum(), rel=1e-12)
    assert F.entropy(law) == pytest.approx(entropy(table, axis=1).sum(), rel=1e-12)
    normals = another(energy("radon").posterior(energy("radon").start), rng)
    assert isinstance(normals, Normals)
    right = sum(multivariate_normal(cov=c).entropy() for c in normals.cov)
    assert energy("radon").entropy(normals) == pytest.approx(right, rel=1e-12)
    with pytest.raises(ValueError, match="q: got Normals of shapes"):
        F.entropy(normals)


@pytest.mark.parametrize("name", [pytest.param("radon", marks=pytest.mark.slow), "times_deaths"])
def test_em_is_coordinate_ascent_on_the_free_energy(name: str) -> None:
    """Each E-step closes the gap, each M-step raises F at the q there is."""
    F = energy(name)
    q, theta = F.posterior(F.start), F.start
    values = [F(q, theta)]
    slow = 3
    for _ in range(slow):
        # an M-step on F alone, by finite differences along its gradient's coordinates
        theta = ascend(F, q, theta)
        values.append(F(q, theta))
        q = F.posterior(theta)
        values.append(F(q, theta))
        assert values[-1] == pytest.approx(F.log_likelihood(theta), rel=1e-12)
    assert all(b >= a - 1e-9 for a, b in pairwise(values))
    assert values[-1] > values[0] + 0.1


def ascend(F: vr.FreeEnergy, q: LatentLaw, theta: np.ndarray) -> np.ndarray:
    """Return the best theta for ``q``, by a method that knows nothing of EM."""
    from scipy.optimize import minimize

    found = minimize(lambda t: -F(q, t), theta, method="Nelder-Mead", options={"maxiter": 100})
    return np.asarray(found.x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radon", "times_deaths"])
def test_three_ways_up_reach_one_maximum(name: str) -> None:
    ways = {
        "em": vr.EM(num_starts=1, accelerate=True),
        "theta": vr.MarginalMLE(),
        "joint": vr.MarginalMLE(ascent="joint"),
    }
    fits = {way: method.fit(target(name), key=0, throw=True) for way, method in ways.items()}
    right = fits["theta"]
    sd = right.flat(right.sd())
    known = sd > 0
    for fit in fits.values():
        assert fit.status is vr.Status.OK
        assert fit.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-4)
        away = (fit.flat(fit.mean()) - right.flat(right.mean()))[known] / sd[known]
        assert np.abs(away).max() < 0.02
        np.testing.assert_allclose(fit.flat(fit.sd())[known], sd[known], rtol=0.02)
    # the joint ascent's path is F, which is below the likelihood until it gets there
    path = fits["joint"].trace["free_energy"][0]
    assert path[-1] == pytest.approx(right.log_likelihood, abs=1e-6)
    assert (np.diff(path) >= -1e-9).all()


def test_what_has_no_exact_e_step_is_refused() -> None:
    with pytest.raises(Exception, match="neither a table of independent members' states nor"):
        vr.FreeEnergy(target("cbpp"))
    fit = vr.MarginalMLE(ascent="joint").fit(target("cbpp"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "VariationalEM" in fit.message
    with pytest.raises(ValueError, match="q: got StateProbabilities of shapes"):
        energy("radon")(StateProbabilities(np.ones((85, 2))), energy("radon").start)
    with pytest.raises(ValueError, match="values: no value of"):
        energy("radon").unconstrain({"mu_a": 0.0})
    with pytest.raises(ValueError, match="ascent: got 'sideways'"):
        vr.MarginalMLE(ascent="sideways")  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_is_no_theta_no_law_and_no_choice_of_latents_is_refused() -> None:
    f = energy("linear_mixed")
    q, theta = f.posterior(f.start), f.start
    size = theta.size
    match = rf"^theta: got .*, expected {size} finite numbers"
    for wrong in (np.append(theta, 0.0), theta[:-1], np.full(size, np.nan)):
        for call in (partial(f, q), partial(f.q, q), f.log_likelihood, f.posterior, f.constrain):
            with pytest.raises(ValueError, match=match):
                call(wrong)
    for law in (None, q[0], (q[0],)):
        with pytest.raises(ValueError, match=r"^q: got .*, expected Normals of shapes \("):
            f(law, theta)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^values: got int, expected site -> value"):
        f.unconstrain(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^target: got 3, expected a Target"):
        vr.FreeEnergy(3)  # type: ignore[arg-type]
    for latent in ((), ("b", "b")):
        with pytest.raises(ValueError, match=r"^latent: got .*, expected different names among"):
            vr.MarginalMLE(latent=latent).fit(target("linear_mixed"))

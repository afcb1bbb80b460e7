"""Latent Dirichlet allocation: density, coordinate ascent against scikit-learn, files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma, gammaln

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.methods import cavi


@cache
def module() -> Any:
    return import_file(find("models")["lda"])


@cache
def fitted(num_topics: int) -> vr.Fit:
    target = vr.Target(module().build(num_topics))
    return vr.CAVI(num_starts=4).fit(target, key=0, throw=True)


def test_density() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 5, (4, 6))
    phi, theta = rng.dirichlet(np.ones(6), 3), rng.dirichlet(np.ones(3), 4)
    target = vr.Target(module().MODEL, counts=counts)
    right = (
        sum(stats.dirichlet(np.full(6, 0.5)).logpdf(p) for p in phi)
        + sum(stats.dirichlet(np.full(3, 0.5)).logpdf(t) for t in theta)
        + sum(
            stats.multinomial(c.sum(), p).logpmf(c)
            for c, p in zip(counts, theta @ phi, strict=True)
        )
    )
    z = target.unconstrain({"phi": phi, "theta": theta})
    assert target.log_density(z, jacobian=False) == pytest.approx(right, rel=1e-10)


def test_draws_are_those_of_dirichlet_laws() -> None:
    eta = module().Eta(
        np.array([[2.0, 0.7, 5.0]]), np.array([[0.01, 0.02, 0.01], [30.0, 1.0, 4.0]])
    )
    values = module().vb_draws(jax.random.key(3), eta, 40_000)
    for drawn, concentration in zip(values.values(), eta, strict=True):
        assert drawn.shape == (40_000, *concentration.shape)
        np.testing.assert_allclose(drawn.sum(axis=-1), 1, rtol=1e-12)
        total = concentration.sum(axis=-1, keepdims=True)
        mean = concentration / total
        variance = mean * (1 - mean) / (total + 1)
        error = drawn.std(axis=0) / 200
        assert (np.abs(drawn.mean(axis=0) - mean) < 5 * error).all()
        away = np.square(drawn - mean)
        assert (np.abs(away.mean(axis=0) - variance) < 5 * away.std(axis=0) / 200).all()
    again = module().vb_draws(jax.random.key(3), eta, 40_000)
    np.testing.assert_array_equal(again["phi"], values["phi"])


@pytest.mark.slow
def test_agrees_with_scikit_learn() -> None:
    from sklearn.decomposition import LatentDirichletAllocation

    counts = module().simulate()["counts"]
    theirs = LatentDirichletAllocation(
        3,
        doc_topic_prior=0.5,
        topic_word_prior=0.5,
        max_iter=300,
        max_doc_update_iter=300,
        mean_change_tol=1e-7,
        learning_method="batch",
        random_state=0,
    ).fit(counts)
    fit = fitted(3)
    orders = gammaln(counts.sum(axis=1) + 1).sum() - gammaln(counts + 1).sum()
    assert fit.log_evidence.value == pytest.approx(theirs.score(counts) + orders, abs=1e-3)
    right = theirs.components_ / theirs.components_.sum(axis=1, keepdims=True)
    mean, mcse = fit.mean()["phi"], fit.mcse()["phi"]
    _, order = linear_sum_assignment(((right[:, None] - mean[None]) ** 2).sum(-1))
    assert np.abs((mean[order] - right) / mcse[order]).max() < 4.5
    assert (np.diff(fit.trace["elbo"], axis=1) > -1e-7).all()


NUM_TRAINED = 60


@cache
def corpus() -> np.ndarray:
    made = module().simulate(num_documents=120, num_words=24, num_topics=3, length=60)
    return np.asarray(made["counts"], float)


def completed(phi: np.ndarray) -> float:
    """Return the perplexity of the second half of every held-out document, given its first.

    The shares of the topics in a document are their posterior mean under mean field, given the
    first half and topics ``phi``.
    """
    seen, asked = np.zeros((2, *corpus()[NUM_TRAINED:].shape))
    rng = np.random.default_rng(0)
    for d, counts in enumerate(corpus()[NUM_TRAINED:].astype(int)):
        words = rng.permutation(np.repeat(np.arange(counts.size), counts))
        first, second = np.array_split(words, 2)
        np.add.at(seen[d], first, 1)
        np.add.at(asked[d], second, 1)
    gamma = np.ones((len(seen), len(phi)))
    for _ in range(200):
        share = np.exp(digamma(gamma) - digamma(gamma.sum(axis=1, keepdims=True)))
        gamma = 0.5 + share * ((seen / (share @ phi)) @ phi.T)
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    return float(np.exp(-(asked * np.log(theta @ phi)).sum() / asked.sum()))


@cache
def scikit_learns_perplexity() -> float:
    from sklearn.decomposition import LatentDirichletAllocation

    train = corpus()[:NUM_TRAINED]
    options = {"doc_topic_prior": 0.5, "topic_word_prior": 0.5, "max_iter": 100}
    fits = [LatentDirichletAllocation(3, random_state=k, **options).fit(train) for k in range(3)]
    topics = max(fits, key=lambda fit: fit.score(train)).components_
    return completed(topics / topics.sum(axis=1, keepdims=True))


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        vr.CAVI(num_starts=2, tolerance=1e-7),
        vr.SVI(num_steps=1_500, step_size=0.05),
    ],
    ids=["cavi", "svi"],
)
def test_held_out_perplexity_is_scikit_learns(method: vr.Method) -> None:
    train = corpus()[:NUM_TRAINED]
    fit = method.fit(vr.Target(module().build(3), counts=train), key=0, throw=True)
    found = completed(fit.mean()["phi"])
    assert found == pytest.approx(scikit_learns_perplexity(), rel=0.02)
    # without topics it is another
    assert completed((train.sum(axis=0) / train.sum())[None]) > 1.2 * found


@pytest.mark.slow
def test_the_bound_prefers_the_topics_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fitted(3).log_evidence.value
    monkeypatch.setattr(cavi, "DRAWN_NUMBERS", 1)  # a bound needs no draws
    for k in (2, 5):
        fit = vr.CAVI(num_starts=4).fit(vr.Target(module().build(k)), key=0, throw=True)
        assert fit.log_evidence.value < right
    assert fitted(3).diagnostics["effective_topics"] == pytest.approx(3, abs=0.05)


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_nuts_is_wider() -> None:
    methods = [vr.CAVI(num_starts=4), vr.NUTS(num_chains=1, num_warmup=500, num_samples=1_000)]
    compared = vr.compare(vr.Target(module().MODEL), methods, reference="nuts")
    table = compared.accuracy().xs("cavi", level="method")
    rows = table.loc[[str(name).startswith("phi") for name in table.index.get_level_values(-1)]]
    # q(z) commits itself: topics come out a little purer than they are
    assert 0.1 < rows["difference"].abs().median() < 1.0
    assert 0.2 < rows["sd_ratio"].median() < 1.0


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("document,word,count\nb,x,2\na,y,1\nb,y,3\n", encoding="utf-8")
    np.testing.assert_array_equal(module().load(path)["counts"], [[0, 1], [2, 3]])
    path.write_text("document,word\na,y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks column\(s\) count"):
        module().load(path)
    path.write_text("document,word,count\na,y,1.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="whole numbers"):
        module().load(path)


@pytest.mark.slow
def test_a_document_without_words() -> None:
    counts = np.array([[1, 2, 0], [0, 0, 0]])
    fit = vr.CAVI().fit(vr.Target(module().MODEL, counts=counts))
    assert fit.status is vr.Status.FAILED
    assert "1 document(s) have no words" in fit.message

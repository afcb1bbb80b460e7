"""EM and coordinate-ascent VB by closed forms, beside scikit-learn and hmmlearn.

Seconds an iteration from the same start, in float64: the fit of many iterations less that of few,
so that starting and compiling fall out of it. For factor analysis and topics, seconds to the same
objective.

    python benchmarks/em.py [--only gmm,general,hmm,factors,topics]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import vi_recipes as vr
from vi_recipes.algebra import smooth
from vi_recipes.core import find, import_file


def module(name: str) -> Any:
    return import_file(find("models")[name])


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Return the median seconds of a call, the first not counted."""
    function()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return sorted(found)[repeats // 2]


def gmm() -> list[tuple[str, ...]]:
    """One EM iteration of a normal mixture with full covariances."""
    from sklearn.mixture import GaussianMixture

    N, D, K = 200_000, 10, 8
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((K, D))
    y = centres[rng.integers(K, size=N)] + rng.standard_normal((N, D))
    start = {
        "pi": np.full(K, 1 / K),
        "mu": y[:K],
        "Sigma": np.broadcast_to(np.cov(y, rowvar=False), (K, D, D)),
    }
    steps = module("gmm").gmm(K).em
    few, many = 5, 25

    with jax.enable_x64(True):
        data = jnp.asarray(y)

        def run(theta: Any, length: int) -> Any:
            def step(theta: Any, _: None) -> tuple[Any, jax.Array]:
                stats, value = steps.e_step(theta, y=data)
                return steps.m_step(stats, "mle", y=data), value

            return jax.lax.scan(step, theta, None, length=length)

        theta = {k: jnp.asarray(v) for k, v in start.items()}
        compiled = {
            n: jax.jit(lambda t, n=n: run(t, n)).lower(theta).compile() for n in (few, many)
        }
        ours = [seconds(lambda n=n: jax.block_until_ready(compiled[n](theta))) for n in (few, many)]
        value = float(compiled[many](theta)[1][-1])

    def theirs(iterations: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GaussianMixture(
                K, max_iter=iterations, tol=0, reg_covar=0, init_params="random",
                weights_init=start["pi"], means_init=start["mu"],
                precisions_init=np.linalg.inv(start["Sigma"]),
            ).fit(y)  # fmt: skip

    peers = [seconds(lambda n=n: theirs(n), 1) for n in (few, many)]
    note = f"log-likelihood {value:.2f}, theirs {theirs(many - 1).score(y) * N:.2f}"
    return row("GMM, N = 200,000, D = 10, K = 8", "scikit-learn", ours, peers, many - few, note)


def general() -> list[tuple[str, ...]]:
    """One iteration of the route that knows of no closed form, beside the closed form."""
    rows = []
    for N, D, K in ((272, 2, 2), (20_000, 5, 4), (200_000, 10, 8)):
        rng = np.random.default_rng(0)
        centres = 1.5 * rng.standard_normal((K, D))
        y = centres[rng.integers(K, size=N)] + rng.standard_normal((N, D))
        target = vr.Target(module("gmm").gmm(K, labels=True), y=y)

        def spent(steps: int, target: vr.Target = target, **options: Any) -> tuple[float, vr.Fit]:
            method = vr.EM(num_starts=1, max_steps=steps, tolerance=1e-15, **options)
            method.fit(target, key=0)
            start = time.perf_counter()
            fit = method.fit(target, key=0)
            return time.perf_counter() - start, fit

        few, many = 10, 60
        e_step: dict[str, Any] = {"e_step": "enumerate"}
        ours = [spent(n, **e_step) for n in (few, many)]
        closed = [spent(n) for n in (few, many)]
        note = f"log-likelihood {ours[1][1].log_likelihood:.2f}, {closed[1][1].log_likelihood:.2f}"
        times = [[seconds for seconds, _ in found] for found in (ours, closed)]
        rows += row(f"any model: GMM, N = {N:,}, D = {D}, K = {K}", "closed form", *times,
                    many - few, note)  # fmt: skip
    return rows


def hmm() -> list[tuple[str, ...]]:
    """One Baum-Welch iteration of a hidden Markov model with diagonal normal emissions."""
    from hmmlearn.hmm import GaussianHMM

    T, K, D = 200_000, 5, 3
    rng = np.random.default_rng(0)
    mu, A = 3 * rng.standard_normal((K, D)), 0.1 / K + 0.9 * np.eye(K)
    z = np.zeros(T, int)
    moves, to = rng.random(T) < 0.1, rng.integers(K, size=T)
    for t in range(1, T):
        z[t] = to[t] if moves[t] else z[t - 1]
    y = mu[z] + rng.standard_normal((T, D))
    start = mu + 0.5 * rng.standard_normal((K, D))
    few, many = 5, 25

    with jax.enable_x64(True):
        data = jnp.asarray(y)
        features = jnp.concatenate([jnp.ones((T, 1)), data, data**2], axis=1)

        def step(theta: Any, _: None) -> tuple[Any, jax.Array]:
            pi, A, mean, variance = theta
            # the squared distance to every state is one product of matrices
            terms = [(mean**2 / variance + jnp.log(2 * jnp.pi * variance)).sum(1)[:, None]]
            terms += [-2 * mean / variance, 1 / variance]
            found = smooth(pi, A, -0.5 * features @ jnp.concatenate(terms, axis=1).T)
            sums = found.marginals.T @ features
            mean = sums[:, 1 : D + 1] / sums[:, :1]
            variance = sums[:, D + 1 :] / sums[:, :1] - mean**2
            A = found.transitions / found.transitions.sum(axis=1, keepdims=True)
            return (found.marginals[0], A, mean, variance), found.log_likelihood

        theta = tuple(map(jnp.asarray, (np.full(K, 1 / K), A, start, np.ones((K, D)))))
        compiled = {
            n: jax.jit(lambda t, n=n: jax.lax.scan(step, t, None, length=n)).lower(theta).compile()
            for n in (few, many)
        }
        ours = [seconds(lambda n=n: jax.block_until_ready(compiled[n](theta))) for n in (few, many)]
        value = float(compiled[many](theta)[1][-1])

    def theirs(iterations: int) -> Any:
        made = GaussianHMM(
            K, covariance_type="diag", covars_prior=0, covars_weight=0, means_weight=0,
            n_iter=iterations, tol=-np.inf, init_params="", min_covar=0,
        )  # fmt: skip
        made.startprob_, made.transmat_, made.means_ = np.full(K, 1 / K), A, start
        made.covars_ = np.ones((K, D))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return made.fit(y)

    peers = [seconds(lambda n=n: theirs(n), 1) for n in (few, many)]
    note = f"log-likelihood {value:.2f}, theirs {theirs(many).monitor_.history[-1]:.2f}"
    return row("HMM, T = 200,000, D = 3, K = 5", "hmmlearn", ours, peers, many - few, note)


def row(
    what: str, peer: str, ours: list[float], peers: list[float], steps: int, note: str
) -> list[tuple[str, ...]]:
    """Return a line of seconds an iteration, from fits of few and of many."""
    mine, other = (((x[1] - x[0]) / steps) for x in (ours, peers))
    return [(what, "iteration", f"{mine:.5f}", peer, f"{other:.5f}", f"{other / mine:.2g}", note)]


def factors() -> list[tuple[str, ...]]:
    """Factor analysis to the same log-likelihood."""
    from sklearn.decomposition import FactorAnalysis

    N, D, k = 50_000, 100, 10
    rng = np.random.default_rng(0)
    W = rng.standard_normal((D, k))
    y = rng.standard_normal((N, k)) @ W.T + rng.standard_normal((N, D)) * rng.uniform(0.5, 2, D)
    start = time.perf_counter()
    theirs = FactorAnalysis(k, tol=1e-2, max_iter=1_000, svd_method="lapack").fit(y)
    peer = time.perf_counter() - start
    fa = module("factor_analysis")
    target = vr.Target(fa.without_scores(fa.build(k)), y=y)
    method = vr.EM(num_starts=1, tolerance=1e-9)
    method.fit(target, key=0)
    fit = method.fit(target, key=0, throw=True)
    mine = fit.timing.run_seconds
    note = (
        f"log-likelihood {fit.log_likelihood:.2f}, theirs {theirs.loglike_[-1]:.2f}; compilation "
        f"{fit.timing.compile_seconds:.1f} s besides"
    )
    return [("factor analysis, N = 50,000, D = 100, k = 10", "fit", f"{mine:.2f}", "scikit-learn",
             f"{peer:.2f}", f"{peer / mine:.0f}", note)]  # fmt: skip


def topics() -> list[tuple[str, ...]]:
    """Latent Dirichlet allocation to scikit-learn's bound after ten iterations."""
    from scipy.special import gammaln
    from sklearn.decomposition import LatentDirichletAllocation

    D, V, K = 5_000, 2_000, 20
    lda = module("lda")
    counts = lda.simulate(num_documents=D, num_words=V, num_topics=K, length=200)["counts"]
    orders = gammaln(counts.sum(axis=1) + 1).sum() - gammaln(counts + 1).sum()
    start = time.perf_counter()
    theirs = LatentDirichletAllocation(
        K, doc_topic_prior=0.5, topic_word_prior=0.5, max_iter=10, learning_method="batch",
        random_state=0,
    ).fit(counts)  # fmt: skip
    peer = time.perf_counter() - start
    bound = theirs.score(counts) + orders
    model = lda.build(K, 0.5, 0.5)
    with jax.enable_x64(True):
        data = jnp.asarray(counts, float)
        eta = model.vb.start(jax.random.key(0), counts=data)
        step = jax.jit(lambda e, c: model.vb.step(e, counts=c)).lower(eta, data).compile()
        jax.block_until_ready(step(eta, data))
        start, iterations, elbo = time.perf_counter(), 0, -np.inf
        while elbo < bound and iterations < 1_000:
            eta, value = step(eta, data)
            elbo, iterations = float(value), iterations + 1
        mine = time.perf_counter() - start
    words = counts.sum()
    note = (
        f"perplexity {np.exp(-(elbo - orders) / words):.2f} after {iterations} iterations, theirs "
        f"{np.exp(-(bound - orders) / words):.2f} after 10"
    )
    return [("LDA, 5,000 documents, 2,000 words, K = 20", "fit", f"{mine:.2f}", "scikit-learn",
             f"{peer:.2f}", f"{peer / mine:.1f}", note)]  # fmt: skip


PARTS = {"gmm": gmm, "general": general, "hmm": hmm, "factors": factors, "topics": topics}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of %(default)s")
    options = parser.parse_args()
    common.heading("EM and coordinate-ascent VB by closed forms")
    rows: list[tuple[str, ...]] = []
    for part in common.chosen(parser, options.only, PARTS):
        rows += PARTS[part]()
    header = ("what", "of one", "ours, s", "peer", "peer, s", "peer ÷ ours", "reached")
    common.print_table(header, rows)
    print(common.load())


if __name__ == "__main__":
    main()

"""Latent Dirichlet allocation: documents that mix topics, topics that are distributions over words.

    theta_d ~ Dirichlet(alpha, ..., alpha)    shares of the topics in document d
    phi_k   ~ Dirichlet(eta, ..., eta)        shares of the words in topic k
    z_dn    ~ Categorical(theta_d)            topic of the n-th word of document d
    w_dn    ~ Categorical(phi_z)

The topics z are summed out: given theta and phi a document's counts of words are multinomial with
probabilities theta_d phi.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import digamma, gammaln
from numpyro.distributions import kl_divergence
from scipy.special import softmax

import vi_recipes as vr


def lda(counts: jax.Array, num_topics: int = 3, alpha: float = 0.5, eta: float = 0.5) -> None:
    """Count the words of documents; the topic of each word is summed out.

    Parameters
    ----------
    counts
        How often each word occurs, documents by words.
    num_topics
        Number of topics, K.
    alpha, eta
        Concentrations of the topics in a document, and of the words in a topic.
    """
    D, V = counts.shape
    with numpyro.plate("topic", num_topics):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(V, eta)))
    with numpyro.plate("document", D):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(num_topics, alpha)))
        words = dist.Multinomial(counts.sum(axis=1), probs=theta @ phi)
        numpyro.sample("counts", words, obs=counts)


# -- coordinate-ascent VB --------------------------------------------------------------------------


class Eta(NamedTuple):
    """Factors: theta_d ~ Dirichlet(theta[d]), phi_k ~ Dirichlet(phi[k])."""

    theta: jax.Array  # (D, K)
    phi: jax.Array  # (K, V)


def vb_start(key: jax.Array, counts: jax.Array, num_topics: int, alpha: float, eta: float) -> Eta:
    """Start from topics that are the words of the corpus with noise."""
    counts = jnp.asarray(counts, float)
    if (empty := int((counts.sum(axis=1) == 0).sum())) > 0:
        raise ValueError(f"{empty} document(s) have no words; drop them")
    share = counts.sum(axis=0) / counts.sum()
    noise = jax.random.exponential(key, (num_topics, counts.shape[1]))
    phi = eta + counts.sum() / num_topics * share * noise
    return Eta(jnp.full((len(counts), num_topics), alpha + 1.0), phi)


def vb_step(
    factors: Eta, counts: jax.Array, num_topics: int, alpha: float, eta: float
) -> tuple[Eta, jax.Array]:
    """Update q(z), then q(theta) and q(phi); the ELBO is that between the two.

    q(z) of a word is proportional to exp(E log theta) exp(E log phi): neither it nor anything else
    of size documents x words x topics is formed.
    """
    by_document = jnp.exp(expected_log(factors.theta))
    by_topic = jnp.exp(expected_log(factors.phi))
    shared = by_document @ by_topic
    ratio = counts / shared
    updated = Eta(
        alpha + by_document * (ratio @ by_topic.T), eta + by_topic * (by_document.T @ ratio)
    )
    kl_theta = kl_divergence(dist.Dirichlet(factors.theta), uniform(alpha, num_topics)).sum()
    kl_phi = kl_divergence(dist.Dirichlet(factors.phi), uniform(eta, counts.shape[1])).sum()
    # the number of orders that the words of a document can come in
    orders = gammaln(counts.sum(axis=1) + 1).sum() - gammaln(counts + 1).sum()
    return updated, (counts * jnp.log(shared)).sum() + orders - kl_theta - kl_phi


def expected_log(concentration: jax.Array) -> jax.Array:
    """Return the expected logarithm of every share under Dirichlet laws."""
    return digamma(concentration) - digamma(concentration.sum(axis=-1, keepdims=True))


def uniform(concentration: float, size: int) -> dist.Dirichlet:
    """Return the symmetric Dirichlet distribution."""
    return dist.Dirichlet(jnp.full(size, concentration))


def vb_draws(key: jax.Array, factors: Eta, num_draws: int, **_: Any) -> dict[str, np.ndarray]:
    """Draw theta and phi from their factors: by NumPy, whose gamma draws are quicker than JAX's.

    A gamma variable of shape a is one of shape a + 1 times the power 1 / a of a uniform one; by
    logarithms, since with a small concentration most of them are too small for a number.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    values = {}
    for name, concentration in zip(Eta._fields, map(np.asarray, factors), strict=True):
        size = num_draws, *concentration.shape
        logs = np.log(rng.standard_gamma(concentration + 1, size))
        logs -= rng.standard_exponential(size) / concentration
        values[name] = softmax(logs, axis=-1)
    return values


def vb_diagnostics(factors: Eta, **_: Any) -> dict[str, float]:
    """Return how many topics are in use: the exponential of the entropy of their shares."""
    theta = np.asarray(factors.theta)
    share = (theta / theta.sum(axis=1, keepdims=True)).mean(axis=0)
    return {"effective_topics": float(np.exp(-(share * np.log(share)).sum()))}


# -- data ------------------------------------------------------------------------------------------


def simulate(
    seed: int = 0,
    num_documents: int = 60,
    num_words: int = 12,
    num_topics: int = 3,
    length: int = 50,
    alpha: float = 0.5,
) -> dict[str, Any]:
    """Draw documents from topics that each prefer words of their own.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_documents, num_words, num_topics
        Sizes D, V and K.
    length
        Words in a document.
    alpha
        Concentration of the topics in a document.

    Returns
    -------
    dict
        ``counts``, documents by words.
    """
    rng = np.random.default_rng(seed)
    own = np.arange(num_words) % num_topics == np.arange(num_topics)[:, None]
    phi = rng.gamma(np.where(own, 2.0, 0.1))
    phi /= phi.sum(axis=1, keepdims=True)
    theta = rng.dirichlet(np.full(num_topics, alpha), num_documents)
    return {"counts": rng.multinomial(length, theta @ phi)}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns document, word and count, one row for each pair that occurs.

    Parameters
    ----------
    path
        The file; documents and words are names or numbers, taken in their sorted order.

    Returns
    -------
    dict
        Arguments of :func:`lda`.
    """
    frame = vr.read_columns(path, ("document", "word", "count"), model="lda")
    count = frame["count"].to_numpy()
    if not np.array_equal(count, np.floor(count)) or (count < 0).any():
        raise ValueError(f"{path}: count should hold whole numbers from zero")
    table = frame.pivot_table(
        index="document", columns="word", values="count", aggfunc="sum", fill_value=0
    )
    return {"counts": table.to_numpy(dtype=int)}


def coords(counts: jax.Array, num_topics: int, **_: Any) -> dict[str, list[int]]:
    """Return numbers from zero for documents, words and topics."""
    D, V = counts.shape
    return {"topic": list(range(num_topics)), "word": list(range(V)), "document": list(range(D))}


def build(num_topics: int = 3, alpha: float = 0.5, eta: float = 0.5) -> vr.Model:
    """Build the model with ``num_topics`` topics and the concentrations given.

    Parameters
    ----------
    num_topics
        Number of topics.
    alpha, eta
        Concentrations of the topics in a document, and of the words in a topic.

    Returns
    -------
    vi_recipes.Model
        The choices stay arguments of the model, with the values given here as defaults.
    """
    choices: dict[str, Any] = {"num_topics": num_topics, "alpha": alpha, "eta": eta}
    return vr.Model(
        function=partial(lda, **choices),
        name="lda",
        data=simulate,
        load=load,
        simulate=simulate,
        parameters=("phi",),
        latents=("theta",),
        dims={
            "phi": ("topic", "word"),
            "theta": ("document", "topic"),
            "counts": ("document", "word"),
        },
        coords=partial(coords, num_topics=num_topics),
        exchangeable=(vr.Exchangeable(sites={"phi": 0, "theta": 1}),),
        vb=vr.VBSteps(
            start=partial(vb_start, **choices),
            step=partial(vb_step, **choices),
            draws=vb_draws,
            diagnostics=vb_diagnostics,
        ),
        description=f"Latent Dirichlet allocation with {num_topics} topics.",
        citation=(
            "Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022, "
            "https://jmlr.org/papers/v3/blei03a.html"
        ),
    )


MODEL = build()

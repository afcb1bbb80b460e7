"""Digits through two latent variables: what a variational autoencoder knows of new images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpyro import handlers
from numpyro.infer import log_likelihood
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, norm

import vi_recipes as vr
from vi_recipes.core import Progress, find, import_file
from vi_recipes.report import COLOURS

VAE = import_file(find("models")["vae"])

NUM_HELD_OUT = 100
NUM_STEPS = 20_000
NUM_LINEAR_STEPS = 6_000

NUM_DRAWS = 2_000
"""Draws from q(z_n | y_n) for every row."""

NUM_WEIGHTED = (1, 5, 20, 100, NUM_DRAWS)
"""Draws K of an importance-weighted bound."""

NUM_GRID = 81
REACH = 5.0
"""Points a dimension of the grid on which z is integrated out, and its ends in prior sds."""

NUM_SHOWN = 10
SIDE = 8
"""Images in a row of pictures, and pixels along the side of each."""

WEIGHTS = ("V", "c", "W", "b")


def split() -> tuple[np.ndarray, np.ndarray]:
    """Return which images are for training, and which are held out."""
    order = np.random.default_rng(0).permutation(len(VAE.data()["y"]))
    return order[NUM_HELD_OUT:], order[:NUM_HELD_OUT]


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Judge the autoencoder on new images, draw its latent space, and solve the linear case."""
    train, new = split()
    images, digits = VAE.data()["y"], VAE.digits()[1]
    with jax.enable_x64(True):
        progress(0, 3, "held-out likelihood")
        trained = Autoencoder.of(comparison["vae"])
        yield vr.Exhibit(
            name="held_out",
            title=f"Log-likelihood of {len(new)} images that were not trained on",
            caption=(
                "Nats a row: mean ± standard error over rows, which the lines have in common, at "
                "the trained weights. An importance-weighted bound with K draws "
                "from the encoder's q(z | y) is E log mean_K p(y, z) / q(z | y): the ELBO at K = "
                "1, rising towards log p(y) as K grows. That itself is the integral over z on a "
                f"grid of {NUM_GRID} x {NUM_GRID} points. Independent pixels have their shares of "
                "the training images, one more of either kind added."
            ),
            content=held_out(trained, images[train], images[new], seed),
        )
        progress(1, 3, "pictures")
        yield vr.Exhibit(
            name="latent_map",
            title="The latent variables of every image, and what they decode to",
            caption=(
                "Left: means of q(z | y) by digit; small: training images, large: those held out. "
                "Right: the expected image decoded at every point of the same plane. Digits alike "
                "in their pixels are neighbours; the encoder was told no label."
            ),
            content=latent_map(trained, images, digits, new),
        )
        yield vr.Exhibit(
            name="samples",
            title="Images, their reconstructions, and samples",
            caption=(
                "From the top: images that were held out; the expected image at the mean of "
                "q(z | y); the expected images at z drawn from the prior; and images drawn there."
            ),
            content=samples(trained, images[new][:NUM_SHOWN], seed),
        )
        progress(2, 3, "linear case")
        yield vr.Exhibit(
            name="linear",
            title="The linear case, whose optimum is known",
            caption=(
                "With a linear decoder and normal noise the autoencoder's model is probabilistic "
                "principal components, whose maximum has a closed form, and with W of orthogonal "
                "rows so has the best encoder: independent coordinates and one sd. Nats a row, of "
                "the images' intensities; the ELBO leaves out the prior of the weights."
            ),
            content=linear(train, new, seed),
        )


# -- the trained autoencoder -----------------------------------------------------------------------


@dataclass(frozen=True)
class Autoencoder:
    """Decoder and encoder, trained.

    Parameters
    ----------
    weights
        The decoder's.
    params
        The guide's, the encoder's weights among them.
    """

    weights: Mapping[str, np.ndarray]
    params: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, fit: vr.Fit) -> Autoencoder:
        """Read a fit of the model's own guide."""
        params = getattr(fit.posterior, "params", None)
        if params is None:
            raise ValueError("the fit was read from disk and has no encoder any more: fit it again")
        return cls({name: fit.mean()[name] for name in WEIGHTS}, params)

    def encode(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds of q(z | y), rows by latent variables."""
        guide = handlers.substitute(handlers.seed(VAE.guide, 0), data=dict(self.params))
        law = handlers.trace(guide).get_trace(jnp.asarray(y))["z"]["fn"].base_dist
        return np.asarray(law.loc), np.asarray(law.scale)

    def log_likelihood(self, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(y | z) for z of shape (draws, rows, latent variables), draws by rows."""
        sites = {
            name: jnp.broadcast_to(value, (len(z), *value.shape))
            for name, value in self.weights.items()
        }
        given = sites | {"z": jnp.asarray(z)}
        return np.asarray(log_likelihood(VAE.MODEL.function, given, y=jnp.asarray(y))["y"])

    def log_weights(self, y: np.ndarray, seed: int) -> np.ndarray:
        """Return log p(y, z) - log q(z | y) at draws from q, draws by rows."""
        loc, sd = self.encode(y)
        rng = np.random.default_rng(seed)
        z = loc + sd * rng.standard_normal((NUM_DRAWS, *loc.shape))
        return np.asarray(
            self.log_likelihood(y, z) + norm.logpdf(z).sum(-1) - norm.logpdf(z, loc, sd).sum(-1)
        )

    def log_marginal(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y) by row, z integrated out by the trapezoid rule."""
        line = np.linspace(-REACH, REACH, NUM_GRID)
        z = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)
        z = np.broadcast_to(z, (len(z), len(y), 2))
        height = self.log_likelihood(y, z) + norm.logpdf(z).sum(-1)
        return np.asarray(logsumexp(height, axis=0) + 2 * np.log(line[1] - line[0]))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return the probability that each pixel is set."""
        h = np.tanh(self.weights["c"] + z @ self.weights["V"])
        return np.asarray(expit(self.weights["b"] + h @ self.weights["W"]))


def held_out(trained: Autoencoder, train: np.ndarray, new: np.ndarray, seed: int) -> pd.DataFrame:
    """Return bounds on the log-likelihood beside the log-likelihood itself."""
    columns = {"training images": train, "held-out images": new}
    share = (1 + train.sum(axis=0)) / (2 + len(train))
    plain = {n: (y * np.log(share) + (1 - y) * np.log1p(-share)).sum(1) for n, y in columns.items()}
    exact = {name: trained.log_marginal(y) for name, y in columns.items()}
    weights = {name: trained.log_weights(y, seed) for name, y in columns.items()}
    lines = {"independent pixels": plain}
    for K in NUM_WEIGHTED:
        what = {1: "ELBO (K = 1)"}.get(K, f"importance-weighted bound, K = {K:,}")
        lines[what] = {
            name: (logsumexp(w.reshape(-1, K, w.shape[1]), axis=1) - np.log(K)).mean(axis=0)
            for name, w in weights.items()
        }
    lines["log p(y) on a grid"] = exact
    rows = []
    for what, values in lines.items():
        row: dict[str, Any] = {"quantity": what}
        for name, by_row in values.items():
            error = by_row.std(ddof=1) / len(by_row) ** 0.5
            row[name] = f"{by_row.mean():.3f} ± {error:.2f}"
            below = exact[name] - by_row
            row[f"below log p(y), {name.split()[0]}"] = float(below.mean())
        rows.append(row)
    return pd.DataFrame(rows)


# -- pictures --------------------------------------------------------------------------------------


def latent_map(
    trained: Autoencoder, images: np.ndarray, digits: np.ndarray, new: np.ndarray
) -> Figure:
    """Draw where images lie in the plane of z, and the images that the plane decodes to."""
    figure = Figure(figsize=(9.4, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    means, _ = trained.encode(images)
    reach = 1.05 * np.abs(means).max()
    sizes = np.where(np.isin(np.arange(len(images)), new), 9, 6)
    for digit in range(10):
        for place, size in zip(means[digits == digit], sizes[digits == digit], strict=True):
            left.annotate(
                str(digit), place, fontsize=size, ha="center", va="center",
                color=(*COLOURS, "black", "#888888", "#AA2222")[digit],
            )  # fmt: skip
    left.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="z[0]", ylabel="z[1]")
    left.set_aspect("equal")
    count = 13
    line = np.linspace(-reach, reach, count)
    z = np.stack(np.meshgrid(line, line[::-1]), axis=-1)
    tiles = np.full((count, count, SIDE + 2, SIDE + 2), np.nan)
    tiles[:, :, 1:-1, 1:-1] = trained.decode(z).reshape(count, count, SIDE, SIDE)
    page = np.concatenate(np.concatenate(tiles, axis=1), axis=1)
    half = reach * count / (count - 1)
    right.imshow(page, cmap="gray_r", extent=(-half, half, -half, half), vmin=0, vmax=1)
    right.set(xlabel="z[0]", ylabel="z[1]", xlim=(-half, half), ylim=(-half, half))
    return figure


def samples(trained: Autoencoder, images: np.ndarray, seed: int) -> Figure:
    """Draw images, reconstructions, and samples, a row each."""
    rng = np.random.default_rng(seed)
    expected = trained.decode(rng.standard_normal((len(images), 2)))
    rows = {
        "held out": images,
        "reconstructed": trained.decode(trained.encode(images)[0]),
        "decoded from the prior": expected,
        "sampled": (rng.random(expected.shape) < expected) * 1.0,
    }
    figure = Figure(figsize=(7.6, 3.3), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        strip(axes, row)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def strip(axes: Axes, images: np.ndarray) -> None:
    """Draw images side by side."""
    framed = np.full((len(images), SIDE, SIDE + 1), np.nan)
    framed[:, :, :SIDE] = images.reshape(-1, SIDE, SIDE)
    axes.imshow(framed.transpose(1, 0, 2).reshape(SIDE, -1)[:, :-1], cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


# -- the linear case -------------------------------------------------------------------------------


def linear(train: np.ndarray, new: np.ndarray, seed: int) -> pd.DataFrame:
    """Train the linear autoencoder, and return its log-likelihoods beside the closed form's."""
    y = VAE.LINEAR.data()["y"]
    y, held = y[train], y[new]
    this = vr.Target(VAE.LINEAR, y=y)
    guide = VAE.make_guide(num_hidden=0, likelihood="gaussian")
    schedule = optax.cosine_decay_schedule(0.01, NUM_LINEAR_STEPS)
    method = vr.SVI(guide=guide, num_steps=NUM_LINEAR_STEPS, optimizer=optax.adam(schedule))
    fit = method.fit(this, key=seed, throw=True)
    best = VAE.linear_optimum(y)
    found = {name: fit.mean()[name] for name in ("W", "b", "sigma")}
    prior = this.site_log_densities(this.unconstrain(fit.mean()))
    weights = sum(prior[name] for name in found)
    elbo, error = fit.diagnostics["elbo"] - weights, fit.diagnostics["elbo_se"]

    def per_row(theta: Mapping[str, Any], rows: np.ndarray) -> float:
        covariance = theta["W"].T @ theta["W"] + theta["sigma"] ** 2 * np.eye(rows.shape[1])
        return float(multivariate_normal.logpdf(rows, theta["b"], covariance).mean())

    top = best["log_likelihood"] / len(y)
    lines = {
        "closed form": (top, per_row(best, held)),
        "trained decoder, z integrated out": (per_row(found, y), per_row(found, held)),
        f"ELBO of the autoencoder (± {error / len(y):.5f})": (elbo / len(y), float("nan")),
    }
    return pd.DataFrame(
        [
            {
                "quantity": what,
                "training images": f"{mine:.5f}",
                "below the optimum": f"{top - mine:.5f}",
                "held-out images": "–" if np.isnan(other) else f"{other:.5f}",
            }
            for what, (mine, other) in lines.items()
        ]
    )


STUDY = vr.Study(
    name="vae",
    model=VAE.MODEL,
    data={"y": VAE.data()["y"][split()[0]]},
    methods={
        "vae": vr.SVI(guide=VAE.guide, num_steps=NUM_STEPS),
        "free": vr.SVI(guide={"z": "normal", "[VcWb]": "delta"}, num_steps=NUM_STEPS),
    },
    description=(
        "400 images of digits, 8 x 8 pixels set or not, decoded from two latent variables by a "
        "network of 8 hidden units; 100 more are held out. vae trains the decoder jointly with an "
        "encoder, which maps an image to q(z | y); free has the same decoder and, without an "
        "encoder, a q of its own for every image. New images have log p(y) = -18.0 nats a row, 5.9 "
        "more than independent pixels give them and as many as training images, within its error. "
        "Their ELBO is 1.33 nats below that, that of training images 0.19: it is the encoder that "
        "overfits, not the decoder. A hundred importance-weighted draws get back all but 0.22 of "
        "those nats. free ends 0.32 nats a row above vae: what an encoder costs, and which of "
        "many local optima the decoder reached. The runs end by their steps; weights still move, "
        "as they may (signs, rotations, hidden units' places), so compare ELBOs and not weights. "
        "The linear autoencoder comes within 0.0005 nats a row of the closed form, most of which "
        "is the prior's pull on the weights."
    ),
    exhibits=exhibits,
)

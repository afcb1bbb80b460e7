"""A correlated bivariate normal, and what each approximation makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import minimize

import vi_recipes as vr
from vi_recipes.comparison import fit_styles
from vi_recipes.core import Progress, find
from vi_recipes.report import COLOURS

SMALL = 0.1
"""Sd of the q whose variance is fixed."""

START = (-0.5, 0.5)
START_SD = 0.5

STEP_SIZE = 0.05
GROWTH = (0, 30, 60)
"""Steps of gradient ascent on the entropy alone after which q is shown."""

WIDE = 5.0
"""How many times wider the axes are where q grows."""

NUM_NODES = 6
"""Gauss-Hermite nodes a dimension: more than the 2 that a normal target needs."""

NUM_GRID = 121
"""Points a dimension of the grid on which expectations under p are taken."""

MAX_ERROR = 1e-9
"""By how much the integral of p over that grid, which is 1, may be off."""

FAMILIES: dict[str, int] = {"full": 5, "diagonal": 4, "small": 2}
"""Family of q -> number of its parameters: the mean, log sds, and what is below the diagonal."""

REVERSE, FORWARD = COLOURS[0], COLOURS[1]


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Solve every exercise numerically, draw the solutions, and lay them beside the formulas."""
    with jax.enable_x64(True):
        exercises = Exercises(target)
        found = exercises.fits(progress)
        yield vr.Exhibit(
            name="contours",
            title="What each approximation makes of p",
            caption=(
                "Grey: p within 1, 2 and 3 sds. Coloured: q at 1 and 2 sds; thin lines: q at 1 sd "
                "on its way from the start. KL(a || b) is E_a[log a - log b]. Top: a full "
                "covariance finds p by either divergence; independent coordinates come out too "
                "narrow by KL(q || p), which is what mean field minimises, and with p's own sds by "
                "KL(p || q); the library's methods, at 1 sd. Bottom: with a small fixed variance "
                "or without the entropy only the search for the mode is left; without the energy "
                "nothing moves q's mean or stops its growth (numbers are steps; axes "
                f"{WIDE:g} times as wide); as q at the mode shrinks to a point both divergences "
                "grow without bound, so that neither is defined for a point."
            ),
            content=pictures(exercises, found, comparison),
        )
        yield vr.Exhibit(
            name="closed_forms",
            title="The optima against their closed forms",
            caption=(
                "Each optimum is found by BFGS on the target's own log density: expectations under "
                "q by Gauss-Hermite cubature, those under p by the trapezoid rule on a grid. "
                "Without energy there is no optimum: gradient ascent on the entropy of "
                f"independent coordinates, with steps of {STEP_SIZE} on log sds, goes on for ever. "
                "The largest difference is that among means, sds, covariance and objective."
            ),
            content=table(found, exercises.closed_forms()),
        )


@dataclass(frozen=True)
class Normal:
    """A normal q.

    Parameters
    ----------
    mean, covariance
        Of q, shapes (2,) and (2, 2).
    value
        The objective there.
    """

    mean: np.ndarray
    covariance: np.ndarray
    value: float

    @property
    def sds(self) -> np.ndarray:
        """Sds, shape (2,)."""
        return np.sqrt(np.diagonal(self.covariance))

    def numbers(self) -> np.ndarray:
        """Return all that is compared: mean, sds, covariance and objective."""
        return np.array([*self.mean, *self.sds, self.covariance[0, 1], self.value])


def spread(family: str, eta: Any) -> tuple[Any, Any]:
    """Return the mean and the lower triangular root of the covariance of q."""
    if family == "small":
        return eta[:2], SMALL * jnp.eye(2)
    below = eta[4] if family == "full" else 0.0
    first, second = jnp.exp(eta[2:4])
    return eta[:2], jnp.array([[first, 0.0], [below, second]])


def normal(family: str, eta: np.ndarray, value: float) -> Normal:
    """Return q by its parameters, with its objective."""
    mean, root = (np.asarray(part) for part in spread(family, jnp.asarray(eta)))
    return Normal(mean, root @ root.T, value)


class Exercises:
    """Objectives over the target's own log density, and their numerical optimisation.

    Parameters
    ----------
    target
        A normalised density of two real coordinates. Nothing here knows that it is normal, except
        :meth:`closed_forms`.
    """

    def __init__(self, target: vr.Target) -> None:
        self.target = target
        arrays = target.arrays()
        self.log_p = jax.jit(jax.vmap(lambda x: target.log_density_fn(x, arrays)))
        nodes, weights = hermegauss(NUM_NODES)
        self.nodes = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.weights = np.outer(weights, weights).ravel() / weights.sum() ** 2

        def loss(x: Any) -> Any:
            return -self.log_p(x[None])[0]

        self.mode = self.minimise(loss, np.array(START))[-1][0]
        hessian = jax.hessian(loss)(jnp.asarray(self.mode))
        self.reach = np.sqrt(np.diagonal(np.linalg.inv(hessian)))
        # the trapezoid rule
        steps = np.linspace(-8, 8, NUM_GRID)
        unit = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        self.grid = self.mode + self.reach * unit
        mass = np.exp(np.asarray(self.log_p(self.grid)))
        off = abs(mass.sum() * (steps[1] - steps[0]) ** 2 * self.reach.prod() - 1)
        if off > MAX_ERROR:
            raise ValueError(f"target: its integral over the grid is off by {off:.1g}, expected 1")
        self.mass = mass / mass.sum()

    # -- objectives --------------------------------------------------------------------------

    def energy(self, mean: Any, root: Any) -> Any:
        """Return E_q[-log p]."""
        return -(self.weights @ self.log_p(mean + self.nodes @ root.T))

    def reverse(self, mean: Any, root: Any) -> Any:
        """Return KL(q || p) = E_q[-log p] - H(q)."""
        return self.energy(mean, root) - entropy(root)

    def forward(self, mean: Any, root: Any) -> Any:
        """Return KL(p || q) = E_p[log p - log q]."""
        scaled = jax.scipy.linalg.solve_triangular(root, (self.grid - mean).T, lower=True)
        log_q = -0.5 * jnp.square(scaled).sum(axis=0) - entropy(root) + 1
        return self.mass @ (self.log_p(self.grid) - log_q)

    # -- numerical optima --------------------------------------------------------------------

    def minimise(
        self, loss: Callable[[Any], Any], start: np.ndarray
    ) -> list[tuple[np.ndarray, float]]:
        """Return the way of BFGS to where ``loss`` is lowest: points and values."""
        compiled = jax.jit(jax.value_and_grad(loss))

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = compiled(x)
            return float(value), np.asarray(gradient)

        path = [(start, both(start)[0])]

        def note(intermediate_result: Any) -> None:
            path.append((np.array(intermediate_result.x), intermediate_result.fun))

        minimize(both, start, jac=True, method="BFGS", callback=note, options={"gtol": 1e-9})
        return path

    def fit(self, family: str, objective: Callable[..., Any]) -> list[Normal]:
        """Return the way to the q of a family that minimises an objective."""
        start = np.array([*START, np.log(START_SD), np.log(START_SD), 0.0])[: FAMILIES[family]]
        path = self.minimise(lambda eta: objective(*spread(family, eta)), start)
        return [normal(family, eta, value) for eta, value in path]

    def grow(self) -> list[Normal]:
        """Return q on its way, by gradient descent on minus the entropy and nothing else."""
        both = jax.jit(jax.value_and_grad(lambda eta: -entropy(spread("diagonal", eta)[1])))
        eta = np.array([*START, np.log(START_SD), np.log(START_SD)])
        path = []
        for step in range(GROWTH[-1] + 1):
            value, slope = both(eta)
            if step in GROWTH:
                path.append(normal("diagonal", eta, float(value)))
            eta = eta - STEP_SIZE * np.asarray(slope)
        return path

    def shrink(self, sds: np.ndarray) -> dict[str, np.ndarray]:
        """Return both divergences of a q at the mode, for sds on their way to a point mass."""

        def along(measure: Callable[..., Any]) -> np.ndarray:
            values = jax.jit(jax.vmap(lambda sd: measure(self.mode, sd * jnp.eye(2))))
            return np.asarray(values(sds))

        return {"KL(q || p)": along(self.reverse), "KL(p || q)": along(self.forward)}

    # -- the answers -------------------------------------------------------------------------

    def closed_forms(self) -> dict[str, Normal]:
        """Return the best q of every exercise that has one, by formula, and q as it grows."""
        mean, sds = self.target.data["mean"], self.target.data["sds"]
        r = self.target.data["correlation"]
        Sigma = np.outer(sds, sds) * np.array([[1, r], [r, 1]])
        precision = np.linalg.inv(Sigma)
        top = -np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(Sigma)[1]
        apart = -0.5 * np.log1p(-(r**2))
        tight = 0.5 * SMALL**2 * np.trace(precision) - 1 - np.log(2 * np.pi * SMALL**2) - top
        forms = {
            "full, KL(q || p)": Normal(mean, Sigma, 0.0),
            "full, KL(p || q)": Normal(mean, Sigma, 0.0),
            "diagonal, KL(q || p)": Normal(mean, np.diag(1 / np.diagonal(precision)), apart),
            "diagonal, KL(p || q)": Normal(mean, np.diag(sds**2), apart),
            "small": Normal(mean, SMALL**2 * np.eye(2), tight),
            "no entropy": Normal(mean, np.zeros((2, 2)), -top),
        }
        for steps in GROWTH[1:]:
            # the entropy rises by one for every unit of either log sd, wherever q is
            sd = START_SD * np.exp(STEP_SIZE * steps)
            value = -(1 + np.log(2 * np.pi) + 2 * np.log(sd))
            forms[growth_name(steps)] = Normal(np.array(START), sd**2 * np.eye(2), value)
        return forms

    def fits(self, progress: Progress) -> dict[str, list[Normal]]:
        """Return the way to each of them by numerical optimisation."""
        todo: dict[str, tuple[str, Callable[..., Any]]] = {
            "full, KL(q || p)": ("full", self.reverse),
            "full, KL(p || q)": ("full", self.forward),
            "diagonal, KL(q || p)": ("diagonal", self.reverse),
            "diagonal, KL(p || q)": ("diagonal", self.forward),
            "small": ("small", self.reverse),
            "no entropy": ("full", self.energy),
        }
        found = {}
        for done, (name, (family, objective)) in enumerate(todo.items()):
            progress(done, len(todo) + 1, name)
            found[name] = self.fit(family, objective)
        progress(len(todo), len(todo) + 1, "no energy")
        path = self.grow()
        return found | {growth_name(n): path[: k + 1] for k, n in enumerate(GROWTH) if k}


def entropy(root: Any) -> Any:
    """Return the entropy of a normal of two coordinates."""
    return 1 + jnp.log(2 * jnp.pi) + jnp.log(jnp.abs(jnp.diagonal(root))).sum()


def growth_name(steps: int) -> str:
    """Return the name of the exercise without energy after some steps."""
    return f"no energy, {steps} steps"


WORDS = {
    "full, KL(q || p)": ("any normal", "KL(q || p)"),
    "full, KL(p || q)": ("any normal", "KL(p || q)"),
    "diagonal, KL(q || p)": ("independent", "KL(q || p)"),
    "diagonal, KL(p || q)": ("independent", "KL(p || q)"),
    "small": (f"both sds {SMALL}", "KL(q || p)"),
    "no entropy": ("any normal", "E_q[-log p], no entropy"),
}
"""Exercise -> what q is, and what it minimises."""


def table(found: dict[str, list[Normal]], forms: dict[str, Normal]) -> pd.DataFrame:
    """Return the optima beside the formulas."""
    rows = []
    for name, form in forms.items():
        q = found[name][-1]
        what, objective = WORDS.get(
            name, (f"independent{name.removeprefix('no energy')}", "-H(q), no energy")
        )
        rows.append(
            {
                "q": what,
                "minimises": objective,
                "mean": text(*q.mean),
                "sds": text(*q.sds),
                "covariance": text(q.covariance[0, 1]),
                "objective": text(q.value),
                "sds by formula": text(*form.sds),
                "objective by formula": text(form.value),
                "largest difference": float(np.abs(q.numbers() - form.numbers()).max()),
            }
        )
    nothing = dict.fromkeys(rows[0], "–") | {"largest difference": float("nan")}
    point = {"q": "a point", "minimises": "either KL", "objective": "undefined"}
    return pd.DataFrame([*rows, nothing | point | {"objective by formula": "undefined"}])


def text(*values: float) -> str:
    """Return numbers as text, a zero without a sign."""
    return ", ".join(f"{value:.4f}" for value in np.round(values, 4) + 0.0)


# -- pictures ---------------------------------------------------------------------------------


def pictures(
    exercises: Exercises, found: dict[str, list[Normal]], comparison: vr.Comparison
) -> Figure:
    """Draw all exercises on one page."""
    figure = Figure(figsize=(10.4, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 4)
    for axes in (*top, *bottom[:3]):
        frame(axes, exercises, WIDE if axes is bottom[2] else 1.0)
    for axes, name, colour, title in (
        (top[0], "full, KL(q || p)", REVERSE, "any normal: q = p"),
        (top[1], "diagonal, KL(q || p)", REVERSE, "independent, KL(q || p)"),
        (top[2], "diagonal, KL(p || q)", FORWARD, "independent, KL(p || q)"),
        (bottom[0], "small", REVERSE, f"sds fixed at {SMALL}, KL(q || p)"),
        (bottom[1], "no entropy", REVERSE, "no entropy: the mode"),
    ):
        for q in found[name][:-1]:
            ellipse(axes, q, colour, lw=0.5, alpha=0.5)
        ellipse(axes, found[name][-1], colour)
        ellipse(axes, found[name][-1], colour, level=2)
        axes.plot(*found[name][-1].mean, ".", color=colour, ms=4)
        axes.set_title(title)
    for level in (1, 2):
        ellipse(top[0], found["full, KL(p || q)"][-1], FORWARD, level=level, ls="--")
    methods(top[3], comparison)
    for steps, q in zip(GROWTH, found[growth_name(GROWTH[-1])], strict=True):
        ellipse(bottom[2], q, REVERSE)
        if steps:
            edge = (q.mean[0] + q.sds[0] + 0.3, q.mean[1])
            bottom[2].annotate(f"{steps}", edge, fontsize=7, va="center", color=REVERSE)
    bottom[2].set_title("no energy: without bound")
    sds = np.geomspace(1e-4, 1, 60)
    for (name, values), colour in zip(
        exercises.shrink(sds).items(), (REVERSE, FORWARD), strict=True
    ):
        bottom[3].plot(sds, values, color=colour, lw=1.6, label=name)
    bottom[3].set(xscale="log", ylim=(0, 20), xlabel="both sds of q", ylabel="nats")
    bottom[3].set_title("towards a point: no limit")
    bottom[3].legend(loc="lower left")
    figure.legend(
        *top[3].get_legend_handles_labels(), loc="outside lower center", ncols=len(comparison),
        title="the library's methods, top right",
    )  # fmt: skip
    return figure


def frame(axes: Axes, exercises: Exercises, wide: float) -> None:
    """Draw p, and say where the axes end."""
    reach = wide * exercises.reach.max() * np.array([3.4, 2.4])
    x, y = (m + np.linspace(-r, r, 241) for m, r in zip(exercises.mode, reach, strict=True))
    log_p = np.asarray(exercises.log_p(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)))
    log_p = log_p.reshape(y.size, x.size) - log_p.max()
    heights = [-0.5 * k**2 for k in (3, 2, 1, 0)]
    axes.contourf(x, y, log_p, heights, colors=("#eeeeee", "#dddddd", "#cccccc"))
    axes.set_aspect("equal")
    axes.set(xlabel="x[0]", ylabel="x[1]", xlim=x[[0, -1]], ylim=y[[0, -1]])


def ellipse(
    axes: Axes, q: Normal, colour: str, *, level: float = 1, lw: float = 1.5, **line: Any
) -> None:
    """Draw where a normal is so many sds from its mean."""
    turn = np.linspace(0, 2 * np.pi, 200)
    values, vectors = np.linalg.eigh(q.covariance)
    outline = vectors * np.sqrt(np.maximum(values, 0)) @ np.stack([np.cos(turn), np.sin(turn)])
    axes.plot(*(q.mean[:, None] + level * outline), color=colour, lw=lw, **line)


def methods(axes: Axes, comparison: vr.Comparison) -> None:
    """Draw every method's answer; those on top are thinner, as many coincide."""
    fits = {name: fit for name, fit in comparison.items() if fit.has_result}
    widths = np.linspace(5.5, 0.8, len(fits))
    for (name, fit), lw in zip(fits.items(), widths, strict=True):
        q = Normal(fit.mean()["x"], fit.cov(["x"]).to_numpy(), 0.0)
        ellipse(axes, q, fit_styles(comparison)[name][0], lw=lw, label=name)
    axes.set_title("the library's methods")


STUDY = vr.Study(
    name="kl_exercises",
    model="bivariate_normal",
    methods={
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "svi": vr.SVI(),
        "svi_multivariate_normal": vr.SVI(guide="multivariate_normal"),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference=find("models")["bivariate_normal"].with_name("reference.json"),
    description=(
        "p is a correlated bivariate normal (r = 0.8), so the best approximation of every kind is "
        "known. A full covariance is exact by either divergence. Independent coordinates have sds "
        "(1 - r^2)^(1/2) = 0.6 of the true ones by KL(q || p), and the true ones by KL(p || q); "
        "either way 0.51 nats are lost. A point mass has no density and no divergence. A small "
        "fixed variance, or dropping the entropy, turns variational inference into the search for "
        "the mode; dropping the energy, q spreads for ever. The optima found numerically agree "
        "with the formulas to 1e-6. MeanField and SVI are the second case, and linear response "
        "repairs what it understates."
    ),
    exhibits=exhibits,
)

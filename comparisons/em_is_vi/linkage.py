"""The free energy of the linkage model, where q and theta are one number each."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.latent import StateProbabilities
from vi_recipes.report import COLOURS, GREY

SHARES = np.linspace(0.02, 0.62, 61)
THETAS = np.linspace(0.06, 0.96, 61)
START = (0.56, 0.12)
"""Where the paths over the picture of F begin: q and theta."""


class Linkage:
    """F of the linkage model as a function of two numbers, q and theta."""

    def __init__(self) -> None:
        self.target = vr.Target(vr.load_model("linkage"))
        self.energy = vr.FreeEnergy(self.target)
        y = np.asarray(self.target.data["y"])
        self.mixed = y == 0
        self.known = np.zeros((len(y), 5))
        self.known[np.arange(len(y)), np.where(self.mixed, 0, y + 1)] = 1.0

    def law(self, share: float) -> StateProbabilities:
        """Return q that has this share of the animals AB in the second cell."""
        table = self.known.copy()
        table[self.mixed, 0], table[self.mixed, 1] = 1 - share, share
        return StateProbabilities(table)

    def point(self, theta: float) -> np.ndarray:
        """Return theta on the unconstrained scale."""
        return self.energy.unconstrain({"theta": theta})

    def free_energy(self, share: float, theta: float) -> float:
        """Return F(q, theta)."""
        return self.energy(self.law(share), self.point(theta))

    def best_share(self, theta: float) -> float:
        """Return the E-step."""
        posterior = self.energy.posterior(self.point(theta))
        assert isinstance(posterior, StateProbabilities)
        return float(posterior.probabilities[self.mixed][0, 1])

    def best_theta(self, share: float) -> float:
        """Return the M-step: the share of the animals in the last four cells with theta / 4."""
        y = np.asarray(self.target.data["y"])
        second, singles, last = (
            share * self.mixed.sum(),
            ((y == 1) | (y == 2)).sum(),
            (y == 3).sum(),
        )
        return float((second + last) / (second + singles + last))

    def stairs(self, steps: int = 6) -> np.ndarray:
        """Return where EM goes, one coordinate at a time, shape (2 steps + 1, 2)."""
        share, theta = START
        path = [(share, theta)]
        for _ in range(steps):
            share = self.best_share(theta)
            path.append((share, theta))
            theta = self.best_theta(share)
            path.append((share, theta))
        return np.array(path)

    def together(self) -> np.ndarray:
        """Return where an ascent in both coordinates goes."""

        def logit(p: np.ndarray) -> np.ndarray:
            return np.log(p) - np.log1p(-p)

        def inside(x: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-x))

        start = logit(np.array(START))
        path = [np.array(START)]
        minimize(
            lambda x: -self.free_energy(*inside(x)),
            start,
            method="BFGS",
            callback=lambda x: path.append(inside(x)),
        )
        return np.array(path)

    def picture(self, progress: Progress) -> Figure:
        """Draw contours with the paths, and the likelihood as the top of F over q."""
        values = np.empty((len(THETAS), len(SHARES)))
        for i, theta in enumerate(THETAS):
            progress(i, len(THETAS), f"free energy at theta = {theta:.2f}")
            values[i] = [self.free_energy(share, theta) for share in SHARES]
        stairs, together = self.stairs(), self.together()
        top = self.free_energy(*stairs[-1])
        likelihood = [self.energy.log_likelihood(self.point(theta)) for theta in THETAS]
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        levels = [-100, -50, -20, -10, -5, -2, -1, -0.3]
        lines = left.contour(SHARES, THETAS, values - top, levels, colors="#bbbbbb", linewidths=0.8)
        lines.set(linestyle="solid")
        left.clabel(lines, fmt=lambda level: f"{level:g}", fontsize=7, colors=GREY)
        left.plot([self.best_share(t) for t in THETAS], THETAS, color=COLOURS[0], lw=1, alpha=0.6)
        left.plot(SHARES, [self.best_theta(s) for s in SHARES], color=COLOURS[1], lw=1, alpha=0.6)
        left.plot(*stairs.T, color="black", lw=1.4, label="EM: E-step, M-step, ...")
        left.plot(*together.T, "o-", color=COLOURS[2], ms=3, lw=1.2, label="both at once")
        left.plot(*stairs[-1], "*", color="black", ms=9)
        left.set(
            xlabel="q: share of animals AB in the second cell",
            ylabel="theta",
            xlim=(SHARES[0], SHARES[-1]),
            ylim=(THETAS[0], THETAS[-1]),
        )
        left.legend(loc="upper right")
        right.plot(np.array(likelihood) - top, THETAS, color="black", lw=1.6,
                   label="log p(y | theta)")  # fmt: skip
        for k, (share, theta) in enumerate(stairs[1:5:2]):
            curve = [self.free_energy(share, t) - top for t in THETAS]
            name = f"F(q, theta), q = {share:.2f}"
            right.plot(curve, THETAS, color=COLOURS[3 + k], lw=1.1, label=name)
            right.plot(self.free_energy(share, theta) - top, theta, "o", color=COLOURS[3 + k], ms=4)
        right.set(xlabel="nats below the maximum", xlim=(-60, 3))
        right.legend(loc="center left")
        return figure

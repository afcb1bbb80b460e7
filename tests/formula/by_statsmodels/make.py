"""Makes data.csv and answers.json: coefficients and standard errors by statsmodels and SciPy.

Run by hand, where statsmodels 0.14 and patsy are installed: ``python make.py``. What statsmodels
does not fit, or has other standard errors of than by the curvature at the maximum (zero-inflated
Poisson), is the maximum of a log-likelihood in SciPy's terms, with a Hessian by differences.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import optimize, special, stats
from statsmodels.miscmodels.ordinal_model import OrderedModel
from statsmodels.othermod.betareg import BetaModel

HERE, ROWS, STEP = Path(__file__).parent, 160, 1e-4
LABELS = ["Intercept", "beta[x]", "beta[k[b]]", "beta[k[c]]", "beta[k[d]]"]
TERMS = "x + C(k)"
ANSWERS: dict[str, dict] = {}


def data() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=ROWS).round(3),
            "z": rng.uniform(1, 3, ROWS).round(2),
            "k": rng.choice(list("abcd"), ROWS),
            "n": rng.integers(1, 12, ROWS),
            "w": rng.integers(0, 4, ROWS),
        }
    )
    eta = 0.2 + 0.4 * frame["x"] + frame["k"].map({"a": 0, "b": 0.3, "c": -0.2, "d": 0.5})
    p, mu = special.expit(eta), np.exp(eta) * frame["z"]
    more = {
        "real": (eta + np.exp(-0.3 + 0.3 * frame["x"]) * rng.normal(size=ROWS)).round(3),
        "wins": rng.binomial(frame["n"], p),
        "won": rng.binomial(1, p),
        "count": rng.poisson(mu),
        "wide": rng.poisson(mu * rng.gamma(2, 0.5, ROWS)),
        "above": rng.gamma(2.5, np.exp(eta) / 2.5).round(3),
        "share": rng.beta(8 * p, 8 * (1 - p)).round(4),
        "grade": np.digitize(eta + rng.logistic(size=ROWS), [-1, 0.3, 1.5]),
    }
    frame = frame.assign(**more)
    none = rng.random(ROWS) < 0.3
    frame["zeros"] = np.where(none, 0, frame["count"])
    frame["more_zeros"] = np.where(none, 0, frame["wide"])
    odds = np.exp(np.column_stack([0 * eta, 0.3 + 0.5 * frame["x"], eta - 0.4 * frame["x"]]))
    odds /= odds.sum(axis=1, keepdims=True)
    frame["choice"] = [rng.choice(["u", "v", "w"], p=row) for row in odds]
    votes = rng.multinomial(frame["n"], odds)
    frame = frame.assign(**{f"of_{level}": votes[:, k] for k, level in enumerate("uvw")})
    frame["spread"] = rng.binomial(frame["n"], rng.beta(4 * p, 4 * (1 - p)))
    frame["tails"] = (eta + 0.5 * rng.standard_t(3, ROWS)).round(3)
    return frame


FRAME = data()
X = np.column_stack([np.ones(ROWS), FRAME["x"], *[FRAME["k"] == level for level in "bcd"]])


def keep(name, formulas, family, labels, estimates, errors, **options) -> None:
    known = {
        label: [float(m), float(s)] for label, m, s in zip(labels, estimates, errors, strict=True)
    }
    ANSWERS[name] = {"formula": formulas, "family": family, "options": options, "answers": known}


def generalized(name, response, family, law, terms=TERMS, labels=None, formula=None, **options):
    """Keep what a generalized linear model has, with the observed information."""
    more = {"freq_weights": FRAME["w"]} if "weights" in options else {}
    more |= {"offset": np.log(FRAME["z"])} if "offset" in (formula or "") else {}
    fit = smf.glm(f"{response} ~ {terms}", FRAME, family=law, **more).fit(tol=1e-12)
    hessian = fit.model.hessian(fit.params, observed=True, scale=1.0)
    errors = pd.Series(np.sqrt(np.diag(np.linalg.inv(-hessian))), fit.params.index)
    errors = fit.bse if more else errors  # of weights of 0 it knows no Hessian; these are the same
    labels = labels or {name: ours(name) for name in fit.params.index}
    own = formula or f"{response} ~ {terms}"
    order = list(labels)
    keep(name, own, family, labels.values(), fit.params[order], errors[order], **options)


def ours(name: str) -> str:
    coded = name.replace("C(k)[T.", "k[") if "C(k)" in name else name
    return "Intercept" if name == "Intercept" else f"beta[{coded}]"


def highest(name, formula, family, labels, log_likelihood, start, number=None, **options) -> None:
    """Keep a maximum with errors by the Hessian; ``number`` of its arguments have labels."""

    def loss(at):
        return -log_likelihood(at).sum()

    at = np.asarray(start, float)
    for _ in range(2):
        at = optimize.minimize(loss, at, method="BFGS", options={"gtol": 1e-8}).x
    steps = STEP * np.eye(len(at))
    signs = [(a, b) for a in (1, -1) for b in (1, -1)]
    hessian = np.array(
        [[sum(a * b * loss(at + a * i + b * j) for a, b in signs) for j in steps] for i in steps]
    ) / (4 * STEP**2)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    number = len(labels)
    keep(name, formula, family, labels, at[:number], errors[:number], **options)


families, links = sm.families, sm.families.links
for link, law in (
    ("logit", links.Logit()),
    ("probit", links.Probit()),
    ("cloglog", links.CLogLog()),
):
    generalized(
        f"binomial {link}", "wins + I(n - wins)", "binomial", families.Binomial(law),
        formula=f"p(wins, n) ~ {TERMS}", link=link,
    )  # fmt: skip
    generalized(f"bernoulli {link}", "won", "bernoulli", families.Binomial(law), link=link)
generalized(
    "offset", "count", "poisson", families.Poisson(), formula=f"count ~ {TERMS} + offset(log(z))"
)
generalized("weights", "count", "poisson", families.Poisson(), weights="w")
generalized("poisson identity", "count", "poisson", families.Poisson(links.Identity()),
            terms="z", link="identity")  # fmt: skip
for here, there, signs in (
    ("Sum", "Sum", ["[S.a]", "[S.b]", "[S.c]"]),
    ("Helmert", "Helmert", ["[H.b]", "[H.c]", "[H.d]"]),
    ("Polynomial", "Poly", [".Linear", ".Quadratic", ".Cubic"]),
):
    coded = [f"C(k, {there}){sign}" for sign in signs]
    made = ["Intercept", *coded, "x", *(f"x:{name}" for name in coded)]
    columns = [f"#{k}" for k in range(len(made))]  # by place: levels of contrasts have other names
    generalized(
        here, "count", "poisson", families.Poisson(), terms=f"x*C(k, {there})",
        labels=dict(zip([made[k] for k in (0, 4, 1, 2, 3, 5, 6, 7)], columns, strict=True)),
        formula=f"count ~ x * C(k, {here})",
    )  # fmt: skip

highest(
    "gaussian",
    f"real ~ {TERMS}",
    "gaussian",
    LABELS,
    lambda p: stats.norm.logpdf(FRAME["real"], X @ p[:5], np.exp(p[5])),
    np.zeros(6),
)
highest("sigma", [f"real ~ {TERMS}", "sigma ~ x"], "gaussian",
        [*LABELS, "Intercept_sigma", "beta_sigma[x]"],
        lambda p: stats.norm.logpdf(FRAME["real"], X @ p[:5], np.exp(p[5] + p[6] * FRAME["x"])),
        np.zeros(7))  # fmt: skip
highest("gamma", f"above ~ {TERMS}", "gamma", LABELS,
        lambda p: stats.gamma.logpdf(FRAME["above"], np.exp(p[5]),
                                     scale=np.exp(X @ p[:5] - p[5])), np.zeros(6))  # fmt: skip
design = pd.DataFrame(X, columns=LABELS)
fit = sm.NegativeBinomial(FRAME["wide"], design).fit(disp=0, maxiter=2000, gtol=1e-9)
keep("negbinomial", f"wide ~ {TERMS}", "negbinomial", LABELS, fit.params[:5], fit.bse[:5])
fit = BetaModel(FRAME["share"], design).fit(disp=0, maxiter=2000, gtol=1e-9)
keep("beta", f"share ~ {TERMS}", "beta", LABELS, fit.params[:5], fit.bse[:5])
for link in ("logit", "probit"):
    fit = OrderedModel(FRAME["grade"], design[LABELS[1:]], distr=link).fit(
        disp=0, method="bfgs", gtol=1e-9, maxiter=2000
    )
    keep(f"cumulative {link}", f"grade ~ {TERMS}", "cumulative", LABELS[1:], fit.params[:4],
         fit.bse[:4], link=link)  # fmt: skip
fit = sm.MNLogit(FRAME["choice"], design).fit(disp=0, tol=1e-12)
both = [label.replace(a, f"{a}_{b}") for b in "vw" for label in LABELS
        for a in [label.partition("[")[0]]]  # fmt: skip
keep("categorical", f"choice ~ {TERMS}", "categorical", both,
     fit.params.to_numpy().T.ravel(), fit.bse.to_numpy().T.ravel())  # fmt: skip


def votes(p):
    eta = np.column_stack([np.zeros(ROWS), X @ p[:5], X @ p[5:]])
    log_p = eta - special.logsumexp(eta, axis=1, keepdims=True)
    return (FRAME[["of_u", "of_v", "of_w"]].to_numpy() * log_p).sum(axis=1)


def spread(p):
    mu, phi = special.expit(X @ p[:5]), np.exp(p[5])
    return stats.betabinom.logpmf(FRAME["spread"], FRAME["n"], mu * phi, (1 - mu) * phi)


def tails(p):
    return stats.t.logpdf(FRAME["tails"], np.exp(p[6]), X @ p[:5], np.exp(p[5]))


named = [label.replace(a, f"{a}_of_{b}") for b in "vw" for label in LABELS
         for a in [label.partition("[")[0]]]  # fmt: skip
highest("multinomial", f"cbind(of_u, of_v, of_w) ~ {TERMS}", "multinomial", named, votes,
        np.zeros(10))  # fmt: skip
highest("betabinomial", f"p(spread, n) ~ {TERMS}", "betabinomial", LABELS, spread, np.zeros(6))
highest("studentt", f"tails ~ {TERMS}", "studentt", LABELS, tails, np.zeros(7))


def negbinomial(y, mu, shape):
    return stats.nbinom.logpmf(y, shape, shape / (shape + mu))


def counts(p, y):
    return stats.poisson.logpmf(y, np.exp(X @ p[:5])), np.exp(-np.exp(X @ p[:5]))


def wide(p, y):
    mu, shape = np.exp(X @ p[:5]), np.exp(p[-1])
    return negbinomial(y, mu, shape), np.exp(negbinomial(0, mu, shape))


def inflated(law, y, zero):
    def log_likelihood(p):
        (log_p, none), gate = law(p, y), special.expit(zero(p))
        return np.where(y == 0, np.log(gate + (1 - gate) * none), np.log1p(-gate) + log_p)

    return log_likelihood


def hurdle(law, y, zero):
    def log_likelihood(p):
        (log_p, none), gate = law(p, y), special.expit(zero(p))
        return np.where(y == 0, np.log(gate), np.log1p(-gate) + log_p - np.log1p(-none))

    return log_likelihood


ZERO = ["Intercept_zero", "beta_zero[x]"]
for name, law, column, more in (
    ("poisson", counts, "zeros", []),
    ("negbinomial", wide, "more_zeros", [0.0]),
):
    y = FRAME[column].to_numpy()
    for kind, made in (("zero_inflated", inflated), ("hurdle", hurdle)):
        highest(f"{kind} {name}", [f"{column} ~ {TERMS}", "zero ~ x"], f"{kind}_{name}",
                [*LABELS, *ZERO], made(law, y, lambda p: p[5] + p[6] * FRAME["x"].to_numpy()),
                [*np.zeros(6), 0.0, *more])  # fmt: skip

FRAME.to_csv(HERE / "data.csv", index=False)
(HERE / "answers.json").write_text(json.dumps(ANSWERS, indent=1) + "\n")

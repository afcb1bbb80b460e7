"""Densities of which fast methods are easily wrong; what is right is known by other calculations.

The value of each was computed by its closed form, by sums over all states, or on a grid.
"""

from __future__ import annotations

from typing import Any

from hostile.case import Case, Check, Done, Outcome, fits, near
from hostile.texts import body

NOT_OK = ("failed", "degenerate", "unconverged", "singular", "collapsed", "not_applicable")


def _case(
    name: str, text: str, methods: str, check: Check, outcome: Outcome = Outcome.RIGHT, **more: Any
) -> Case:
    return Case(name, fits("m.py", methods=methods), outcome, {"m.py": text}, check=check, **more)


def _close(label: str, mean: float, sd: float | None, methods: str, within: float) -> Check:
    """Every method is right, in sds, or does not say that it is."""

    def check(done: Done) -> None:
        scale = 1.0 if sd is None else sd
        for method in methods.split(","):
            near(done.mean(method, label), mean, within * scale)
            if sd is not None:
                near(done.sd(method, label), sd, within * scale)

    return check


def _not_ok(methods: str) -> Check:
    """No method says OK of what has no answer."""

    def check(done: Done) -> None:
        for method in methods.split(","):
            assert done.status(method) in NOT_OK, f"{method}: {done.result['methods'][method]}"

    return check


def _right_or_said(label: str, mean: float, sd: float, methods: str, within: float = 0.1) -> Check:
    """A method whose status is OK and that is trusted is right."""

    def check(done: Done) -> None:
        for method in methods.split(","):
            fit = done.result["methods"][method]
            if fit["status"] == "ok" and fit["trust"] == "trustworthy":
                near(done.mean(method, label), mean, within * sd)
                near(done.sd(method, label), sd, within * sd)

    return check


def _normal_mean(unit: float) -> str:
    """Return a hierarchical model of the same data in another unit."""
    return body(f"""
c = {unit!r}
y = c * jnp.array([1.1, 1.9, 2.3, 4.0, 3.2, 4.1, 5.9, 4.7, 5.6, 2.4, 3.0, 3.5])
g = jnp.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
mu = numpyro.sample("mu", dist.Normal(0.0, 10.0 * c))
t = numpyro.sample("t", dist.HalfNormal(c))
with numpyro.plate("group", 4):
    u = numpyro.sample("u", dist.Normal(mu, t))
with numpyro.plate("row", 12):
    numpyro.sample("y", dist.Normal(u[g], 0.5 * c), obs=y)
""")


def _same_in(unit: float, methods: str) -> Check:
    """The same mean in every unit: 3.4558 on a grid of t, 3.4750 at the maximum."""

    def check(done: Done) -> None:
        for method in methods.split(","):
            assert done.status(method) == "ok", done.result["methods"][method]["message"]
            near(done.mean(method, "mu") / unit, 3.465, 0.025)

    return check


UNITS = (1e-6, 1e-3, 1e3, 1e6)
IN_UNITS = "lrvb,marginal_mle"

MIXTURE_WEIGHTS = body("""
y = jnp.array([-2.0, -0.3, 0.2, 1.9])
w = jnp.array([1.0, 3.0, 3.0, 1.0])
m = numpyro.sample("m", dist.Normal(1.0, 1.0))
with numpyro.plate("row", 4), numpyro.handlers.scale(scale=w):
    c = numpyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    numpyro.sample("y", dist.Normal(jnp.where(c == 1, m, -m), 1.0), obs=y)
""")
"""Row weights about a variable that is summed out."""

ANSWERS = body("""
B = jnp.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])
pi = numpyro.sample("pi", dist.Dirichlet(2 * jnp.ones(3)))
with numpyro.plate("items", 2):
    c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
with numpyro.plate("answers", 3):
    item = jnp.array([0, 0, 1])
    numpyro.sample("y", dist.Categorical(B[c[item]]), obs=jnp.array([0, 2, 0]))
""")
"""A summed-out variable indexed from another plate."""

SEPARATED = body("""
x = jnp.linspace(-2.0, 2.0, 10)
y = jnp.repeat(jnp.array([0, 1]), 5)
flat = dist.ImproperUniform(dist.constraints.real, (), ())
a = numpyro.sample("a", flat)
b = numpyro.sample("b", flat)
with numpyro.plate("row", 10):
    numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)
""")

FLOOR = body("""
c = numpyro.sample("c", dist.Normal(0.0, 3.0))
numpyro.sample("y", dist.Normal(jnp.floor(c), 1.0), obs=4.0)
""")

SWITCH = body("""
t = jnp.arange(20) + 0.5
n = jnp.array([3, 2, 4, 3, 5, 2, 3, 1, 0, 1, 2, 0, 1, 1, 0, 1, 2, 1, 0, 1])
tau = numpyro.sample("tau", dist.Normal(10.0, 5.0))
with numpyro.plate("i", 20):
    numpyro.sample("n", dist.Poisson(jnp.where(t > tau, 1.0, 3.0)), obs=n)
""")

RATE = body("""
y = jnp.asarray(np.random.default_rng(451).poisson(3.0, 400))
lam = numpyro.sample("lam", dist.Gamma(2.0, 1.0))
with numpyro.plate("i", 400):
    numpyro.sample("y", dist.Poisson(lam), obs=y)
""")

BOUNDS = body("""
lo = jnp.array([[0.0], [1.0], [2.0]])
y = lo + jnp.array([[0.2, 0.9], [0.5, 1.1], [0.7, 0.1]])
with numpyro.plate("r", 3, dim=-2), numpyro.plate("c", 2, dim=-1):
    u = numpyro.sample("u", dist.Uniform(lo, lo + 1.0))
    numpyro.sample("y", dist.Normal(u, 0.3), obs=y)
""")

LOCAL = body("""
with numpyro.plate("coin", 3):
    r = numpyro.sample("r", dist.Beta(2.0, 3.0))
    numpyro.sample("y", dist.Binomial(10, r), obs=jnp.array([1, 4, 7]))
""")

SATURATED = body("""
rng = np.random.default_rng(0)
g = np.repeat(np.arange(30), 4)
x = rng.uniform(-60.0, 60.0, 120)
y = (rng.random(120) < 0.5).astype(int)
b = numpyro.sample("b", dist.Normal(0, 10))
with numpyro.plate("G", 30):
    u = numpyro.sample("u", dist.Normal(0, 1))
with numpyro.plate("N", 120):
    numpyro.sample("y", dist.Bernoulli(logits=b * x + u[g]), obs=y)
""")

ABSORBING = body("""
import vi_recipes
p = numpyro.sample("p", dist.Beta(1.0, 1.0))
table = jnp.array([[1.0, 1.0], [0.0, 1.0]]) * jnp.array([[p, 1 - p], [1.0, 1.0]])
with numpyro.plate("n", 3):
    z = numpyro.sample("z", dist.Categorical(table[0]), infer={"enumerate": "parallel"})
    w = numpyro.sample("w", dist.Categorical(table[z]), infer={"enumerate": "parallel"})
    numpyro.sample("y", dist.Normal(4.0 * w, 1.0), obs=jnp.array([0.0, 4.0, 0.0]))
""").replace("    import vi_recipes\n", "")

EDGE = body("""
mu = numpyro.sample("mu", dist.Uniform(0.0, 1.0))
numpyro.sample("y", dist.Normal(mu, 1.0), obs=jnp.array([1.2, 1.4]))
""")

BOOLEAN = body("""
z = numpyro.sample("z", dist.Normal(0.0, 1.0))
numpyro.deterministic("positive", z > 0)
numpyro.sample("y", dist.Normal(z, 1.0), obs=0.5)
""")

NO_MEAN = body("""
k = numpyro.sample("k", dist.HalfCauchy(1.0))
numpyro.sample("y", dist.Normal(0.0, 1.0), obs=0.0)
""")

TWO_MODES = body("""
m = numpyro.sample("m", dist.Normal(0.0, 3.0))
numpyro.sample("y", dist.Normal(m**2, 0.2), obs=4.0)
""")
"""Modes at -2 and 2: mean 0, sd 2."""


def _trusted(done: Done) -> None:
    """All are within 0.05 sds of a gamma posterior: none is the one downgraded."""
    for method in ("meanfield", "lrvb"):
        fit = done.result["methods"][method]
        assert fit["trust"] == "trustworthy", fit["verdict"]


def _fitted(done: Done) -> None:
    fit = done.result["methods"]["marginal_mle"]
    assert "coupled" not in fit["message"], fit["message"]
    assert fit["status"] == "ok", fit["message"]


def _finite(done: Done, label: str) -> None:
    assert 0 < done.mean("map", label) < 1


def _no_growth(done: Done) -> None:
    fit = done.result["methods"]["map"]
    assert "without bound" not in fit["message"] + fit["advice"], fit["message"]


def _no_mean(done: Done) -> None:
    fit = done.result["methods"]["nuts"]
    assert fit["trust"] != "trustworthy" or "mean" in fit["verdict"], fit["verdict"]


def _both_seen(done: Done) -> None:
    for method in ("laplace", "meanfield"):
        fit = done.result["methods"][method]
        assert fit["trust"] != "trustworthy", fit["verdict"]


CASES = [
    _case("row weights about a summed-out variable", MIXTURE_WEIGHTS, "map",
          _close("m", 0.4232, None, "map", 1e-3)),
    _case("a summed-out variable indexed from another plate", ANSWERS, "laplace,nuts",
          _right_or_said("pi[0]", 0.4062, 0.1836, "nuts", 0.15), Outcome.TOLD),
    _case("a logistic regression that separates", SEPARATED, "map,laplace",
          _not_ok("map,laplace"), Outcome.TOLD),
    _case("a step: floor", FLOOR, "map,laplace,meanfield,lrvb",
          _right_or_said("c", 4.0164, 0.9832, "map,laplace,meanfield,lrvb"), Outcome.TOLD),
    _case("a step: where", SWITCH, "map,laplace,meanfield,lrvb",
          _right_or_said("tau", 7.1292, 1.1686, "map,laplace,meanfield,lrvb"), Outcome.TOLD),
    _case("weights that hardly vary", RATE, "laplace,meanfield,lrvb", _trusted),
    _case("bounds by row", BOUNDS, "meanfield",
          lambda done: near(done.mean("meanfield", "u[0, 0]"), 0.3243, 0.02)),
    _case("nothing left when latent variables are integrated out", LOCAL, "em,marginal_mle,map",
          _not_ok("em,marginal_mle")),
    _case("a likelihood that saturates", SATURATED, "marginal_mle,map",
          _fitted),
    _case("zeros in a transition matrix", ABSORBING, "map",
          lambda done: _finite(done, "p")),
    _case("a mode on an edge", EDGE, "map", _no_growth, Outcome.TOLD),
    _case("a probability as a deterministic site", BOOLEAN, "laplace,lrvb",
          _close("positive", 0.6382, None, "laplace,lrvb", 0.02)),
    _case("a posterior without a mean", NO_MEAN, "nuts", _no_mean),
    _case("two modes", TWO_MODES, "laplace,meanfield,nuts", _both_seen),
    *(_case(f"the same data times {unit:g}", _normal_mean(unit), IN_UNITS,
            _same_in(unit, IN_UNITS)) for unit in UNITS),
]  # fmt: skip

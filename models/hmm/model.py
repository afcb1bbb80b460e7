"""Hidden Markov model with Gaussian, Poisson or categorical emissions.

One prior for all three, with K states and m and s the mean and sd of the data:

    pi, A_k ~ Dirichlet(2, ..., 2)
    Gaussian:    mu_0 ~ Normal(m, 2 s), log(mu_k - mu_{k-1}) ~ Normal(log s, 1), and
                 sigma_k ~ InverseGamma(3, s)
    Poisson:     log_rate_0 ~ Normal(log m, 2), log(log_rate_k - log_rate_{k-1}) ~ Normal(0, 1)
    categorical: logit_0 ~ Normal(0, 2), log(logit_k - logit_{k-1}) ~ Normal(0, 1), the logits of
                 the first symbol, and the others share the rest as Dirichlet(1, ..., 1) has it

States are numbered by what is ordered, so that labels cannot switch. Two pseudo-counts put the mode
of pi and A inside the simplex, where the likelihood alone would put pi at a corner. The prior of
sigma goes to zero with sigma, so that no state collapses on one observation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.distributions.transforms import OrderedTransform

import vi_recipes as vr
from vi_recipes.algebra import smooth

EMISSIONS = ("gaussian", "poisson", "categorical")
CONCENTRATION = 2.0
COLLAPSED = 1e-3
"""A state whose sd is below this share of the series' has collapsed."""


class HiddenMarkov(dist.Distribution):
    """A series emitted by the states of a Markov chain, which are summed out.

    Parameters
    ----------
    pi
        Probabilities of the first state, (K,).
    A
        Probabilities of the next state (columns) given the present one (rows), (K, K).
    emission
        Distribution of an observation given the state, of batch shape (K,).
    num_times
        Length of the series.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "pi": constraints.simplex,
        "A": constraints.independent(constraints.simplex, 1),
    }
    pytree_data_fields = ("pi", "A", "emission")
    pytree_aux_fields = ("num_times",)

    def __init__(
        self,
        pi: jax.Array,
        A: jax.Array,
        emission: Any,
        num_times: int,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.pi, self.A, self.emission, self.num_times = pi, A, emission, num_times
        super().__init__(batch_shape=(), event_shape=(num_times,), validate_args=validate_args)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> Any:
        """Series of whatever a state can emit."""
        return constraints.independent(self.emission.support, 1)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the log probability of one series, by the forward recursion in logarithms."""
        emitted = self.emission.log_prob(value[:, None])
        log_A = jnp.log(self.A)

        def forward(before: jax.Array, here: jax.Array) -> tuple[jax.Array, None]:
            return logsumexp(before[:, None] + log_A, axis=0) + here, None

        last, _ = jax.lax.scan(forward, jnp.log(self.pi) + emitted[0], emitted[1:])
        return logsumexp(last)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw series: a path of states, then what each of them emits."""
        key_first, key_next, key_emit = jax.random.split(key, 3)
        size = int(np.prod(sample_shape, dtype=int))
        first = jax.random.categorical(key_first, jnp.log(self.pi), shape=(size,))
        log_A = jnp.log(self.A)

        def step(state: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = jax.random.categorical(key, log_A[state])
            return state, state

        _, later = jax.lax.scan(step, first, jax.random.split(key_next, self.num_times - 1))
        path = jnp.concatenate([first[None], later]).T
        candidates = self.emission.sample(key_emit, (size, self.num_times))
        drawn = jnp.take_along_axis(candidates, path[..., None], axis=-1)[..., 0]
        return drawn.reshape(*sample_shape, self.num_times)


def ordered(name: str, first: dist.Distribution, log_gap: dist.Distribution, size: int) -> Any:
    """Sample an increasing vector: its first element, and the logarithms of its steps."""
    loc = jnp.append(first.loc, jnp.broadcast_to(log_gap.loc, (size - 1,)))
    scale = jnp.append(first.scale, jnp.broadcast_to(log_gap.scale, (size - 1,)))
    steps = dist.Normal(loc, scale).to_event(1)
    return numpyro.sample(name, dist.TransformedDistribution(steps, OrderedTransform()))


def sample_chain(num_states: int) -> tuple[Any, Any]:
    """Sample the probabilities of the first state and of the transitions from the prior."""
    K = num_states
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.full(K, CONCENTRATION)))
    rows = dist.Dirichlet(jnp.full((K, K), CONCENTRATION)).to_event(1)
    return pi, numpyro.sample("A", rows)


def sample_emission(y: jax.Array, num_states: int, emission: str, num_symbols: int | None) -> Any:
    """Sample the parameters of the emissions; return a function from states to a distribution."""
    K = num_states
    if emission == "gaussian":
        s = y.std()
        mu = ordered("mu", dist.Normal(y.mean(), 2 * s), dist.Normal(jnp.log(s), 1.0), K)
        sigma = numpyro.sample("sigma", dist.InverseGamma(3.0, s).expand([K]).to_event(1))
        return lambda z: dist.Normal(mu[z], sigma[z])
    if emission == "poisson":
        log_mean = jnp.log(y.mean())
        log_rate = ordered("log_rate", dist.Normal(log_mean, 2.0), dist.Normal(0.0, 1.0), K)
        rate = numpyro.deterministic("rate", jnp.exp(log_rate))
        return lambda z: dist.Poisson(rate[z])
    V = check_symbols(num_symbols)
    logit = ordered("logit", dist.Normal(0.0, 2.0), dist.Normal(0.0, 1.0), K)
    first = jax.nn.sigmoid(logit)[:, None]
    rest = jnp.ones((K, 1))
    if V > 2:
        rest = numpyro.sample("rest", dist.Dirichlet(jnp.ones((K, V - 1))).to_event(1))
    B = numpyro.deterministic("B", jnp.concatenate([first, (1 - first) * rest], axis=1))
    return lambda z: dist.Categorical(probs=B[z])


def hidden_markov(
    y: jax.Array,
    num_states: int = 3,
    emission: str = "gaussian",
    num_symbols: int | None = None,
) -> None:
    """Observe a series whose distribution follows a hidden state; the states are summed out.

    Parameters
    ----------
    y
        The series: real numbers, counts, or codes of symbols from zero.
    num_states
        Number of states, K.
    emission
        "gaussian", "poisson" or "categorical".
    num_symbols
        Number of symbols, for "categorical".
    """
    check(num_states, emission)
    pi, A = sample_chain(num_states)
    emit = sample_emission(y, num_states, emission, num_symbols)
    series = HiddenMarkov(pi, A, emit(jnp.arange(num_states)), len(y))
    numpyro.sample("y", series, obs=y)


def hidden_states(
    y: jax.Array,
    num_states: int = 3,
    emission: str = "gaussian",
    num_symbols: int | None = None,
) -> None:
    """Observe a series whose distribution follows a hidden state ``z``, a site of its own.

    Parameters
    ----------
    y, num_states, emission, num_symbols
        As for :func:`hidden_markov`.
    """
    check(num_states, emission)
    pi, A = sample_chain(num_states)
    emit = sample_emission(y, num_states, emission, num_symbols)
    # before the first state the chain is in one more, whose transition probabilities are pi
    rows = jnp.concatenate([A, pi[None]])

    def step(before: Any, observed: jax.Array) -> tuple[Any, None]:
        z = numpyro.sample("z", dist.Categorical(probs=rows[before]))
        numpyro.sample("y", emit(z), obs=observed)
        return z, None

    scan(step, num_states, y)


def check(num_states: int, emission: str) -> None:
    """Refuse fewer than two states and an unknown kind of emission."""
    if num_states < 2:
        raise ValueError(f"num_states={num_states}: expected two or more")
    if emission not in EMISSIONS:
        raise ValueError(f"emission={emission!r}: choose one of {', '.join(EMISSIONS)}")


def check_symbols(num_symbols: int | None) -> int:
    """Refuse categorical emissions without two symbols."""
    if num_symbols is None or num_symbols < 2:
        raise ValueError(
            f"num_symbols={num_symbols}: categorical emissions need the number of symbols, two or "
            "more"
        )
    return num_symbols


TRUTH: dict[str, dict[str, Any]] = {
    "gaussian": {"mu": (-2.0, 0.5, 3.0), "sigma": (0.7, 0.9, 0.7)},
    "poisson": {"rate": (1.0, 5.0, 12.0)},
    "categorical": {"B": ((0.1, 0.7, 0.1, 0.1), (0.3, 0.05, 0.6, 0.05), (0.7, 0.1, 0.1, 0.1))},
}
"""Emissions of the three simulated states."""

STAY = 0.9
"""Probability that the simulated chain stays where it is."""


def simulate(
    seed: int = 0,
    num_times: int = 300,
    emission: str = "gaussian",
    stay: float = STAY,
    **truth: Any,
) -> dict[str, Any]:
    """Draw a series from three states that persist.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_times
        Length of the series.
    emission
        "gaussian", "poisson" or "categorical".
    stay
        Probability to stay in a state; the others share the rest. The first state is any of them.
    **truth
        ``mu`` and ``sigma``, ``rate`` or ``B``, one element or row per state, in place of the
        defaults.

    Returns
    -------
    dict
        Arguments of :func:`hidden_markov` beside those that :func:`hmm` fixes.
    """
    check(2, emission)
    known = TRUTH[emission]
    if unknown := set(truth) - set(known):
        raise ValueError(
            f"{', '.join(sorted(unknown))}: emission={emission!r} takes {', '.join(known)}"
        )
    values = {name: np.asarray(value, float) for name, value in (known | truth).items()}
    K = len(next(iter(values.values())))
    rng = np.random.default_rng(seed)
    z = np.empty(num_times, int)
    z[0] = rng.integers(K)
    for t in range(1, num_times):
        moves = rng.random() >= stay
        z[t] = (z[t - 1] + moves * rng.integers(1, K)) % K
    if emission == "gaussian":
        return {"y": values["mu"][z] + values["sigma"][z] * rng.standard_normal(num_times)}
    if emission == "poisson":
        return {"y": rng.poisson(values["rate"][z])}
    cumulative = values["B"].cumsum(axis=1)[z]
    return {"y": (rng.random(num_times)[:, None] >= cumulative[:, :-1]).sum(axis=1)}


def load(path: Path | str, emission: str = "gaussian") -> dict[str, Any]:
    """Read a CSV or JSON with a column or key ``y``, the series in order of time.

    Parameters
    ----------
    path
        The file; what else it holds is left aside.
    emission
        "gaussian", "poisson" or "categorical": the last two want whole numbers from zero.

    Returns
    -------
    dict
        Arguments of :func:`hidden_markov` beside those that :func:`hmm` fixes.
    """
    raw = vr.read_data(path, needs=("y",), model="hmm", called="the column or key")
    try:
        y = np.asarray(raw["y"], float)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: y should hold numbers") from None
    if y.ndim != 1 or len(y) < 2:
        raise ValueError(
            f"{path}: y should be a series of two numbers or more, got shape {y.shape}"
        )
    if emission == "gaussian":
        return {"y": y}
    if not np.array_equal(y, np.floor(y)) or (y < 0).any():
        raise ValueError(f"{path}: y should hold whole numbers from zero for {emission} emissions")
    return {"y": y.astype(int)}


def init(
    key: jax.Array,
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> dict[str, Any]:
    """Start from a chain that persists and from states spread over the data."""
    K = num_states
    y = jnp.asarray(y, dtype=float)
    values: dict[str, Any] = {
        "pi": jnp.full(K, 1 / K),
        "A": (1 - STAY) / (K - 1) * (1 - jnp.eye(K)) + STAY * jnp.eye(K),
    }
    spread = (jnp.arange(K) + 0.5) / K
    # quantiles of series with ties may be equal, and ordered vectors may not
    apart = 1e-3 * jnp.arange(K) * y.std()
    if emission == "gaussian":
        return values | {
            "mu": jnp.quantile(y, spread) + apart,
            "sigma": jnp.full(K, y.std() / K),
        }
    if emission == "poisson":
        return values | {"log_rate": jnp.log(jnp.quantile(y, spread) + apart + 0.5)}
    first = jnp.mean(y == 0)
    values["logit"] = jnp.log((first + 0.05) / (1.05 - first)) + jnp.linspace(-1.0, 1.0, K)
    V = check_symbols(num_symbols)
    if V > 2:
        # Dirichlet(2, ..., 2), without the program that draws gamma variables of any shape
        parts = jax.random.exponential(key, (2, K, V - 1)).sum(axis=0)
        values["rest"] = parts / parts.sum(axis=1, keepdims=True)
    return values


# -- Baum and Welch's algorithm: theta is pi, A and mu and sigma, rate or B ------------------------


class Counts(NamedTuple):
    """Expected sufficient statistics of the states."""

    first: jax.Array  # (K,)
    moves: jax.Array  # (K, K)
    times: jax.Array  # (K,)
    totals: jax.Array  # (K,), or (K, V) by symbol
    squares: jax.Array  # (K,), about the mean of y


def log_emitted(theta: dict[str, Any], y: jax.Array, emission: str) -> jax.Array:
    """Return the log density of every observation given each state, (T, K)."""
    if emission == "gaussian":
        return dist.Normal(theta["mu"], theta["sigma"]).log_prob(y[:, None])
    if emission == "poisson":
        return dist.Poisson(theta["rate"]).log_prob(y[:, None])
    return jnp.log(theta["B"]).T[y]


def e_step(
    theta: dict[str, Any],
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> tuple[Counts, jax.Array]:
    """Return expected counts of the states and of their moves, and the log-likelihood."""
    smoothed = smooth(theta["pi"], theta["A"], log_emitted(theta, y, emission))
    weights = smoothed.marginals
    centred = y - y.mean()
    if emission == "categorical":
        totals = jax.ops.segment_sum(weights, y, check_symbols(num_symbols)).T
    else:
        totals = weights.T @ (centred if emission == "gaussian" else y.astype(float))
    squares = weights.T @ jnp.square(centred)
    found = Counts(weights[0], smoothed.transitions, weights.sum(axis=0), totals, squares)
    return found, smoothed.log_likelihood


def m_step(
    stats: Counts,
    objective: str,
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> dict[str, Any]:
    """Return the maximiser of the expected complete-data log-likelihood."""
    # a state that nothing visits keeps finite values, for `collapse` to report
    times = jnp.maximum(stats.times, jnp.finfo(stats.times.dtype).tiny)
    leaves = stats.moves.sum(axis=1, keepdims=True)
    stay = jnp.where(leaves > 0, stats.moves / jnp.where(leaves > 0, leaves, 1.0), 1 / num_states)
    theta = {"pi": stats.first / stats.first.sum(), "A": stay}
    if emission == "categorical":
        return theta | {"B": stats.totals / times[:, None]}
    mean = stats.totals / times
    if emission == "poisson":
        return theta | {"rate": mean}
    variance = stats.squares / times - jnp.square(mean)
    # a state of one value keeps a density, for `collapse` to report
    floor = jnp.square(1e-3 * COLLAPSED) * y.var()
    return theta | {"mu": y.mean() + mean, "sigma": jnp.sqrt(jnp.maximum(variance, floor))}


def start(
    key: jax.Array,
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> dict[str, Any]:
    """Start from a chain that persists and from states at random values of the series."""
    K = num_states
    rng = np.random.default_rng(int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max)))
    y = np.asarray(y)
    if len(np.unique(y)) < K:
        raise ValueError(
            f"num_states={K}, but y has only {len(np.unique(y))} distinct value(s); ask for fewer "
            "states"
        )
    moves = rng.dirichlet(np.ones(K), K)
    theta: dict[str, Any] = {"pi": np.full(K, 1 / K), "A": 0.5 * np.eye(K) + 0.5 * moves}
    if emission == "categorical":
        shares = np.bincount(y, minlength=check_symbols(num_symbols)) + 1.0
        return theta | {"B": rng.dirichlet(10 * shares / shares.sum() + 0.5, K)}
    # far from one another with a greater chance, as k-means++ chooses its centres
    centres = [float(rng.choice(y))]
    while len(centres) < K:
        distance = np.square(y[:, None] - np.array(centres)).min(axis=1)
        centres.append(float(rng.choice(y, p=distance / distance.sum())))
    if emission == "poisson":
        return theta | {"rate": np.sort(centres) + 0.1}
    return theta | {"mu": np.sort(centres), "sigma": np.full(K, y.std() / 2)}


def collapse(
    theta: dict[str, Any],
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> dict[str, tuple[jax.Array, float]]:
    """Return what goes to zero when a state collapses on one value or is not visited at all."""
    weights = smooth(theta["pi"], theta["A"], log_emitted(theta, y, emission)).marginals
    found = {"state": (weights.sum(axis=0), 1.0)}
    if emission == "gaussian":
        found["sigma"] = (theta["sigma"] / y.std(), COLLAPSED)
    return found


def complete(
    theta: dict[str, Any],
    y: jax.Array,
    num_states: int,
    emission: str,
    num_symbols: int | None,
) -> dict[str, Any]:
    """Return the values of the model's sites, the states numbered by what the model orders."""
    key = {"gaussian": "mu", "poisson": "rate", "categorical": "B"}[emission]
    value = theta[key][:, 0] if emission == "categorical" else theta[key]
    order = jnp.argsort(value)
    theta = {name: v[order] for name, v in theta.items()} | {"A": theta["A"][order][:, order]}
    if emission == "poisson":
        return theta | {"log_rate": jnp.log(theta["rate"])}
    if emission == "gaussian":
        return theta
    first = theta["B"][:, 0]
    theta["logit"] = jnp.log(first) - jnp.log1p(-first)
    if check_symbols(num_symbols) > 2:
        theta["rest"] = theta["B"][:, 1:] / (1 - first)[:, None]
    return theta


def coords(num_states: int, num_symbols: int | None, **_: Any) -> dict[str, list[int]]:
    """Return numbers from zero for states and symbols."""
    return {
        "state": list(range(num_states)),
        "next_state": list(range(num_states)),
        "symbol": list(range(num_symbols or 0)),
        "other_symbol": list(range(1, num_symbols or 1)),
    }


def hmm(
    num_states: int = 3,
    emission: str = "gaussian",
    num_symbols: int | None = None,
    *,
    states: bool = False,
) -> vr.Model:
    """Build the model with ``num_states`` states and the kind of emission given.

    Parameters
    ----------
    num_states
        Number of states.
    emission
        "gaussian", "poisson" or "categorical".
    num_symbols
        Number of symbols, for "categorical".
    states
        Whether the states are a site ``z`` of their own, which methods sum out by enumeration
        (with the extra ``enumerate``), rather than summed out in the model.

    Returns
    -------
    vi_recipes.Model
        The choices stay arguments of the model, with the values given here as defaults.
    """
    check(num_states, emission)
    choices = {"num_states": num_states, "emission": emission, "num_symbols": num_symbols}
    dims: dict[str, tuple[str, ...]] = {"pi": ("state",), "A": ("state", "next_state")}
    if emission == "gaussian":
        dims |= {"mu": ("state",), "sigma": ("state",)}
    elif emission == "poisson":
        dims |= {"log_rate": ("state",), "rate": ("state",)}
    else:
        dims |= {"logit": ("state",), "B": ("state", "symbol")}
        if check_symbols(num_symbols) > 2:
            dims["rest"] = ("state", "other_symbol")
    return vr.Model(
        function=partial(hidden_states if states else hidden_markov, **choices),
        name="hmm",
        data=partial(simulate, emission=emission),
        load=partial(load, emission=emission),
        simulate=partial(simulate, emission=emission),
        parameters=tuple(name for name in dims if name not in ("rate", "B")),
        latents=("z",) if states else (),
        dims=dims,
        coords=partial(coords, num_states=num_states, num_symbols=num_symbols),
        init=partial(init, **choices),
        em=vr.EMSteps(
            start=partial(start, **choices),
            e_step=partial(e_step, **choices),
            m_step=partial(m_step, **choices),
            collapse=partial(collapse, **choices),
            complete=partial(complete, **choices),
        ),
        description=f"Hidden Markov model with {num_states} states and {emission} emissions.",
        citation=(
            "Baum, Petrie, Soules and Weiss (1970), A maximization technique occurring in the "
            "statistical analysis of probabilistic functions of Markov chains, Annals of "
            "Mathematical Statistics 41(1), 164-171, doi:10.1214/aoms/1177697196"
        ),
    )


MODEL = hmm()
STATES = hmm(states=True)
POISSON = hmm(emission="poisson")
CATEGORICAL = hmm(emission="categorical", num_symbols=4)

"""Laws of responses that NumPyro lacks: hurdles, and ordered levels with either link."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from numpyro.distributions import constraints


class Each(dist.Distribution):  # type: ignore[misc]
    """Numbers that are independent, each with a law of its own.

    Parameters
    ----------
    *laws
        One a number, all of one support.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    pytree_data_fields = ("laws",)

    def __init__(self, *laws: Any, validate_args: bool | None = None) -> None:
        self.laws = laws
        super().__init__((), (len(laws),), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """That of all of them."""
        return constraints.independent(self.laws[0].support, 1)

    def log_prob(self, value: Any) -> jax.Array:
        """Return the sum of the log densities of the numbers."""
        each = [law.log_prob(value[..., k]) for k, law in enumerate(self.laws)]
        return jnp.sum(jnp.stack(each, axis=-1), axis=-1)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Return draws of all of them."""
        keys = jax.random.split(key, len(self.laws))
        drawn = [law.sample(k, sample_shape) for law, k in zip(self.laws, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)


class Hurdle(dist.Distribution):  # type: ignore[misc]
    """Zero with a probability of its own, else a count that is not zero.

    Parameters
    ----------
    base
        The law of counts, whose zeros are left out.
    zero
        The probability of zero.

    References
    ----------
    Mullahy, J. (1986). Specification and testing of some modified count data models. Journal of
    Econometrics 33(3). doi:10.1016/0304-4076(86)90002-3
    """

    arg_constraints = {"zero": constraints.unit_interval}  # noqa: RUF012
    support = constraints.nonnegative_integer
    pytree_data_fields = ("base", "zero")

    def __init__(self, base: Any, zero: Any, *, validate_args: bool | None = None) -> None:
        batch = jnp.broadcast_shapes(base.batch_shape, jnp.shape(zero))
        self.base, self.zero = base.expand(batch), jnp.broadcast_to(zero, batch)
        super().__init__(batch, validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        """Return the log probability of counts."""
        positive = jnp.maximum(value, 1)
        none = self.base.log_prob(jnp.zeros_like(positive))
        some = jnp.log1p(-self.zero) + self.base.log_prob(positive) - jnp.log(-jnp.expm1(none))
        return jnp.where(value == 0, jnp.log(self.zero), some)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Return counts: one that is zero is drawn again until it is none."""
        keys = jax.random.split(key)
        shape = self.shape(sample_shape)

        def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            count, key = state
            key, own = jax.random.split(key)
            drawn = self.base.sample(own, sample_shape)
            return jnp.where(count == 0, drawn, count), key

        first = self.base.sample(keys[0], sample_shape)
        none = jax.random.bernoulli(keys[1], self.zero, shape)
        tiny = self.base.mean < 1e-3  # such a count is one, nearly always: waiting would be long
        first = jnp.where((tiny | none) & (first == 0), jnp.ones_like(first), first)
        count, _ = jax.lax.while_loop(lambda s: (s[0] == 0).any(), again, (first, keys[0]))
        return jnp.where(none, jnp.zeros_like(count), count)

    @property
    def mean(self) -> jax.Array:
        """The expected count."""
        none = self.base.log_prob(jnp.zeros(self.batch_shape, int))
        return (1.0 - self.zero) * self.base.mean / -jnp.expm1(none)

    @property
    def variance(self) -> jax.Array:
        """Of the count."""
        none = self.base.log_prob(jnp.zeros(self.batch_shape, int))
        square = (self.base.variance + self.base.mean**2) / -jnp.expm1(none)
        return (1.0 - self.zero) * square - self.mean**2


class Cumulative(dist.CategoricalLogits):  # type: ignore[misc]
    """Ordered levels: P(y <= k) is the link's inverse at ``cut[k] - eta``.

    Parameters
    ----------
    eta
        The linear predictor.
    cut
        The thresholds, rising; one less than levels.
    link
        ``"logit"`` or ``"probit"``.

    References
    ----------
    McCullagh, P. (1980). Regression models for ordinal data. JRSS B 42(2).
    """

    def __init__(
        self, eta: Any, cut: Any, link: str = "logit", *, validate_args: bool | None = None
    ) -> None:
        log_below = jax.nn.log_sigmoid if link == "logit" else log_ndtr
        upper = jnp.asarray(cut) - jnp.asarray(eta)[..., None]
        low, high = upper[..., :-1], upper[..., 1:]
        if link == "logit":  # F(h) - F(l) = F(h) F(-l) (1 - exp(l - h))
            between = log_below(high) + log_below(-low) + _log_rest(high - low)
        else:  # in the tail where neither is nearly one
            left = low + high < 0
            one, two = jnp.where(left, high, -low), jnp.where(left, low, -high)
            between = log_below(one) + _log_rest(log_below(one) - log_below(two))
        parts = [log_below(upper[..., :1]), between, log_below(-upper[..., -1:])]
        super().__init__(jnp.concatenate(parts, axis=-1), validate_args=validate_args)


def _log_rest(x: jax.Array) -> jax.Array:
    """Return log(1 - exp(-x))."""
    return jnp.log(-jnp.expm1(-x))

import re

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import integrate, stats

import vi_recipes as vr
from vi_recipes.formula.gaussian import NormalPredictor
from vi_recipes.formula.links import LINKS
from vi_recipes.methods import METHODS

RNG = np.random.default_rng(5)
GROUP = np.repeat(list("abcde"), [2, 3, 4, 3, 2])
X = RNG.normal(size=len(GROUP))
FRAME = pd.DataFrame({"y": RNG.normal(1.0, 2.0, len(GROUP)), "x": X, "g": GROUP})
SD, SIGMA, WIDTH = 1.5, 0.7, 2.0
PRIORS = {"Intercept": f"Normal(0, {WIDTH})", "beta": "Normal(0, 1)", "sd_g": SD, "sigma": SIGMA}
NEW = {"x": [0.5, -1.0, 0.5, 2.0, 2.0, 0.0, 0.0], "g": ["a", "c", "q", "q", "r", None, None]}
NUM_DRAWS = 4_000


def closed_form():
    """Return the mean and the covariance of intercept, slope and the five effects."""
    one_hot = (FRAME["g"].to_numpy()[:, None] == list("abcde")).astype(float)
    design = np.column_stack([np.ones(len(FRAME)), FRAME["x"], one_hot])
    prior = np.array([WIDTH**-2, 1.0, *[SD**-2] * 5])
    covariance = np.linalg.inv(design.T @ design / SIGMA**2 + np.diag(prior))
    return covariance @ design.T @ FRAME["y"].to_numpy() / SIGMA**2, covariance


@pytest.fixture(scope="module")
def fitted():
    target = vr.Target(vr.glmm("y ~ x + (1 | g)", FRAME, priors=PRIORS))
    return target, vr.Laplace().fit(target, throw=True)


def at_rows(groups):
    """Return what the linear predictor is a combination of, and the population's covariance."""
    x = np.array(NEW["x"])
    rows = np.zeros((7, 7))
    rows[:, 0], rows[:, 1] = 1.0, x
    label = np.array([str(g) for g in NEW["g"]])
    own = np.eye(7)  # members that are not known differ from row to row
    same = (label[:, None] == label) & (label != "None")
    if groups == "population":
        return rows, np.zeros((7, 7))
    if groups == "known":
        for k, known in ((0, "a"), (1, "c")):
            rows[k, 2 + "abcde".index(known)] = 1.0
        same[:2] = same[:, :2] = False
        own[:2] = 0.0
    return rows, SD**2 * np.where(same, 1.0, own)


@pytest.mark.parametrize("groups", ["known", "new", "population"])
@pytest.mark.parametrize("kind", ["linear", "response"])
def test_predictions_in_a_conjugate_hierarchy_are_those_of_the_closed_form(fitted, groups, kind):
    target, fit = fitted
    mean, covariance = closed_form()
    rows, own = at_rows(groups)
    expected = rows @ covariance @ rows.T + own
    expected += SIGMA**2 * np.eye(7) if kind == "response" else 0.0
    made = vr.predict(fit, target, NEW, kind, groups, num_draws=NUM_DRAWS)
    draws = made.draws.reshape(-1, 7)
    assert draws.shape == (NUM_DRAWS, 7)
    scale = np.sqrt(np.diag(expected))
    # 4 standard errors of means, and of products of normals
    np.testing.assert_array_less(abs(made.mean - rows @ mean), 4 * scale / NUM_DRAWS**0.5)
    wide = np.outer(scale, scale)
    assert (abs(np.cov(draws.T) - expected) < 4 * wide * (2 / NUM_DRAWS) ** 0.5).all()
    ends = stats.norm(rows @ mean, scale).ppf([[0.025], [0.975]]).T
    np.testing.assert_allclose(made.interval(0.95), ends, atol=0.15 * scale.max())
    exact = np.zeros(7, bool)  # rows without a new member
    if kind == "linear":
        exact[: {"known": 2, "new": 0, "population": 7}[groups]] = True
        mean_too = vr.predict(fit, target, NEW, "mean", groups, num_draws=20)
        np.testing.assert_allclose(mean_too.sd[exact], scale[exact], rtol=1e-9)
    np.testing.assert_allclose(made.mean[exact], (rows @ mean)[exact], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.sd[exact], scale[exact], rtol=1e-9)
    np.testing.assert_allclose(made.interval(0.95)[exact], ends[exact], rtol=1e-9, atol=1e-9)
    assert repr(made) == f"Prediction(kind={kind!r}, groups={groups!r}, 7 rows, {NUM_DRAWS} draws)"
    assert list(made.frame().columns) == ["mean", "sd", "low", "high", "interval"]
    some = pd.DataFrame(NEW, index=[9, 3, 5, 7, 1, 0, 2])
    again = vr.predict(fit, target, some, kind, groups, num_draws=20).frame()
    assert list(again.index) == [9, 3, 5, 7, 1, 0, 2]  # so that it joins the rows that it is of


def test_intervals_are_of_the_kind_and_level_that_all_tables_have(fitted):
    target, fit = fitted
    made = vr.predict(fit, target, NEW, "linear", num_draws=NUM_DRAWS)
    assert set(made.frame()["interval"]) == {"89 % equal-tailed"}
    ends = stats.norm(made.mean, made.sd).ppf([[0.055], [0.945]]).T
    np.testing.assert_allclose(made.interval()[:2], ends[:2], rtol=1e-9)
    np.testing.assert_allclose(made.frame()["low"], made.interval()[:, 0])
    assert set(made.frame(0.95)["interval"]) == {"95 % equal-tailed"}
    with az.rc_context({"stats.ci_kind": "hdi", "stats.ci_prob": 0.5}):
        assert set(made.frame()["interval"]) == {"50 % highest-density"}
        half = stats.norm(made.mean, made.sd).ppf([[0.25], [0.75]]).T
        np.testing.assert_allclose(made.interval()[:2], half[:2], rtol=1e-9)
        low, high = made.interval()[4]  # by draws: as many inside, and no wider than equal tails
        draws = made.draws[..., 4]
        assert np.mean((draws >= low) & (draws <= high)) == pytest.approx(0.5, abs=0.01)
        assert high - low <= np.ptp(np.quantile(draws, [0.25, 0.75])) + 1e-12
    for level in (0, 95):
        with pytest.raises(ValueError, match="conf_level: got"):
            made.frame(level)


def test_rows_that_were_fitted_are_those_predicted_where_none_are_given():
    """By their own index, so that what is left out for missing values shifts nobody."""
    frame = FRAME.assign(w=1.0, count=np.arange(len(FRAME)) % 5).set_axis(range(100, 114))
    frame.loc[[101, 105], ["x", "w"]] = [[np.nan, 1.0], [0.3, np.nan]]
    for offset in ("w", frame["w"].to_numpy()):
        model = vr.glmm(
            "count ~ x + (1 | g)", frame, "poisson", missing="drop", offset=offset,
            priors={"sd_g": 1.0},
        )  # fmt: skip
        fit = vr.Laplace().fit(vr.Target(model), throw=True)
        kept = frame.drop(index=[101, 105])
        own = kept["w"].to_numpy() if isinstance(offset, np.ndarray) else None
        there = vr.predict(fit, model, kept, offset=own)
        here = vr.predict(fit, vr.Target(model))
        assert list(here.frame().index) == list(kept.index)
        np.testing.assert_array_equal(here.mean, there.mean)
        given = vr.comparisons(fit, model, kept, ["x", "g"], offset=own)
        pd.testing.assert_frame_equal(given, vr.comparisons(fit, model, None, ["x", "g"]))
        each = vr.comparisons(fit, model, None, "x", average=False)
        assert list(each["row"]) == list(kept.index)
        given = vr.slopes(fit, model, kept, "x", offset=own, conf_level=0.5)
        pd.testing.assert_frame_equal(given, vr.slopes(fit, model, None, "x", conf_level=0.5))
        assert set(given["interval"]) == {"50 % equal-tailed"}


def test_a_model_by_formula_stands_for_its_target(fitted):
    target, fit = fitted
    model = vr.glmm("y ~ x + (1 | g)", FRAME, priors=PRIORS)
    np.testing.assert_allclose(vr.Laplace().fit(model).mean()["beta"], fit.mean()["beta"])
    for one in (vr.log_likelihood, vr.posterior_predictive):
        np.testing.assert_array_equal(one(fit, model)["y"], one(fit, target)["y"])
    of_prior = (vr.prior_predictive(this, num_draws=20)["y"] for this in (model, target))
    np.testing.assert_array_equal(*of_prior)
    assert vr.loo(fit, model).elpd == vr.loo(fit, target).elpd
    both = vr.Comparison({"laplace": fit})
    pd.testing.assert_frame_equal(both.loo(model), both.loo(target))
    assert both.table(target=model).foot == both.table(target=target).foot
    other = vr.glmm("y ~ x + (1 | g)", FRAME.assign(y=FRAME["y"] + 1), priors=PRIORS)
    with pytest.raises(ValueError, match="fitted to other data"):
        vr.loo(fit, other)


def test_of_a_comparison_one_fit_predicts(fitted):
    target, fit = fitted
    both = vr.Comparison({"laplace": fit})
    with pytest.raises(
        ValueError, match=r"fit: got Comparison.*, expected .* such as \['laplace'\]"
    ):
        vr.predict(both, target, NEW)


def test_independent_factors_predict_by_their_own_closed_form(fitted):
    """Mean field's sds are those of each coordinate given the others; its means are right."""
    target, _ = fitted
    fit = METHODS["meanfield"]().fit(target, throw=True)
    mean, covariance = closed_form()
    rows, own = at_rows("known")
    made = vr.predict(fit, target, NEW, "linear", num_draws=NUM_DRAWS)
    alone = np.sqrt((rows**2 / np.diag(np.linalg.inv(covariance))).sum(axis=1) + np.diag(own))
    np.testing.assert_allclose(made.mean[:2], (rows @ mean)[:2], rtol=1e-4)
    np.testing.assert_allclose(made.sd[:2], alone[:2], rtol=1e-4)
    np.testing.assert_allclose(made.sd, alone, rtol=4 / (2 * NUM_DRAWS) ** 0.5)


@pytest.mark.parametrize("link", ["identity", "log", "logit", "probit", "cloglog"])
@pytest.mark.parametrize(("m", "s"), [(-1.3, 0.4), (2.0, 3.0), (-6.0, 1.0), (0.0, 0.0)])
def test_means_through_a_link_are_those_of_an_adaptive_quadrature(link, m, s):
    known = NormalPredictor(np.array([m]), np.array([s]), np.array([True]))
    mean, sd = known.moments(link)
    inverse = LINKS[link].inverse

    def expected(power, centre):
        def value(x):
            return (float(inverse(np.array(m + s * x))) - centre) ** power * stats.norm.pdf(x)

        return integrate.quad(value, -20, 20, points=[0, s, 2 * s, 3.0], limit=500)[0]

    np.testing.assert_allclose(mean[0], expected(1, 0.0), rtol=1e-7)
    np.testing.assert_allclose(sd[0], expected(2, mean[0]) ** 0.5, rtol=1e-6, atol=1e-9)
    level = stats.norm.cdf(1) - stats.norm.cdf(-1)
    ends = known.interval(link, level)[0]
    np.testing.assert_allclose(ends, inverse(np.array([m - s, m + s])), rtol=1e-9, atol=1e-12)


def test_chances_by_a_gaussian_posterior_have_no_monte_carlo_error():
    """Also with an effect that is a slope, a coefficient that is known, and an offset."""
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"x": rng.normal(size=60), "g": np.repeat(list("abcdef"), 10), "t": 0.3})
    frame["y"] = rng.binomial(1, 0.4, 60)
    priors = {"Intercept": 0.2, "sd_g_x": 0.7}
    model = vr.glmm("y ~ x + offset(t) + (0 + x | g)", frame, "bernoulli", priors=priors)
    target = vr.Target(model)
    fit = vr.Laplace().fit(target, throw=True)
    new = {"x": [0.5, -2.0, 1.0], "g": ["b", "e", "new"], "t": [0.3, 1.0, 0.3]}
    few, many = (vr.predict(fit, target, new, num_draws=n) for n in (10, 40_000))
    assert few.normal is not None
    np.testing.assert_array_equal(few.mean[:2], many.mean[:2])
    drawn = many.draws[0]
    error = drawn.std(axis=0) / 200
    np.testing.assert_array_less(abs(many.mean - drawn.mean(axis=0)), 4 * error)
    np.testing.assert_allclose(many.sd, drawn.std(axis=0), rtol=0.02)
    ends = np.quantile(drawn, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(many.interval(0.95), ends, atol=0.01)
    nobody = vr.predict(fit, target, new, groups="population", num_draws=10)
    slope, sd = float(fit.mean()["beta"][0]), float(fit.sd()["beta"][0])
    at = 0.2 + np.array(new["t"]) + np.array(new["x"]) * slope
    exact = NormalPredictor(at, abs(np.array(new["x"])) * sd, np.ones(3, bool))
    np.testing.assert_allclose(nobody.mean, exact.moments("logit")[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lrvb", "nested", "nuts", "structured"])
def test_methods_that_are_right_here_predict_the_closed_form(fitted, method):
    target, _ = fitted
    fit = METHODS[method]().fit(target, throw=True)
    mean, covariance = closed_form()
    for groups in ("known", "new"):
        rows, own = at_rows(groups)
        scale = np.sqrt(np.diag(rows @ covariance @ rows.T + own))
        made = vr.predict(fit, target, NEW, "linear", groups)
        # draws that depend on one another are worth a quarter of their number, or more
        worth = made.draws.shape[0] * made.draws.shape[1] / 4
        np.testing.assert_array_less(abs(made.mean - rows @ mean), 4 * scale / worth**0.5)
        np.testing.assert_array_less(abs(made.sd / scale - 1), 4 / (2 * worth) ** 0.5)


def test_the_mean_follows_from_the_linear_predictor():
    frame = pd.DataFrame({"count": RNG.poisson(3, 30), "x": RNG.normal(size=30), "t": 2.0})
    target = vr.Target(vr.glmm("count ~ x", frame, "poisson", offset=np.log(frame["t"])))
    fit = vr.Laplace().fit(target, throw=True)
    new = {"x": [0.0, 1.0]}
    with pytest.raises(ValueError, match="give offset= for the new rows"):
        vr.predict(fit, target, new)
    options = {"offset": np.log([2.0, 4.0]), "num_draws": 400}
    linear = vr.predict(fit, target, new, "linear", **options)
    mean = vr.predict(fit, target, new, "mean", **options)
    np.testing.assert_allclose(mean.draws, np.exp(linear.draws), rtol=1e-10)
    counts = vr.predict(fit, target, new, "response", **options)
    assert (counts.draws % 1 == 0).all()
    np.testing.assert_allclose(counts.mean, mean.mean, rtol=0.2)


def test_the_mean_of_students_t_is_its_centre_whatever_its_tails():
    frame = pd.DataFrame({"y": RNG.standard_t(1.2, 40), "x": RNG.normal(size=40)})
    target = vr.Target(vr.glmm("y ~ x", frame, "studentt"))
    rng = np.random.default_rng(1)
    scalars = {"Intercept": 0.0, "sigma": 1.0, "nu": 1.0}  # nu is below 1 at half of the draws
    draws = {n: v + 0.1 * rng.normal(size=(2, 200)) for n, v in scalars.items()}
    fit = vr.from_draws({**draws, "beta": rng.normal(2.0, 0.1, (2, 200, 1))}, target)
    made = vr.predict(fit, target, {"x": [-1.0, 3.0]})
    np.testing.assert_allclose(made.mean, [-2.0, 6.0], atol=0.1)
    linear = vr.predict(fit, target, {"x": [-1.0, 3.0]}, "linear")
    np.testing.assert_array_equal(made.draws, linear.draws)
    exact = vr.predict(vr.Laplace().fit(target, throw=True), target, {"x": [3.0]})
    assert exact.normal is not None


def test_successes_and_levels():
    frame = pd.DataFrame({"s": RNG.binomial(9, 0.4, 30), "n": 9, "x": RNG.normal(size=30)})
    target = vr.Target(vr.glmm("p(s, n) ~ x", frame, "binomial"))
    fit = vr.Laplace().fit(target, throw=True)
    new = {"x": [0.0, 1.0]}
    chance = vr.predict(fit, target, new, num_draws=400)
    linear = vr.predict(fit, target, new, "linear", num_draws=400)
    np.testing.assert_allclose(chance.draws, 1 / (1 + np.exp(-linear.draws)), rtol=1e-10)
    with pytest.raises(ValueError, match="lacks the trials"):
        vr.predict(fit, target, new, "response")
    drawn = vr.predict(fit, target, new | {"n": [50, 2]}, "response", num_draws=400).draws
    assert drawn[..., 0].max() > 9
    assert drawn[..., 1].max() <= 2

    both = vr.Target(vr.glmm("cbind(s, n - s) ~ x", frame, "binomial"))
    again = vr.predict(fit, both, new | {"n": [50, 2]}, "response", num_draws=400)
    np.testing.assert_array_equal(again.draws, drawn)  # the successes are not asked for

    quoted = vr.glmm("p(s, `n all`) ~ x", frame.rename(columns={"n": "n all"}), "binomial")
    again = vr.predict(fit, vr.Target(quoted), new, num_draws=400)
    np.testing.assert_array_equal(again.draws, chance.draws)

    frame["level"] = pd.cut(frame["x"] + RNG.normal(size=30), 3, labels=["low", "mid", "high"])
    target = vr.Target(vr.glmm("level ~ x", frame, "cumulative"))
    fit = vr.Laplace().fit(target, throw=True)
    made = vr.predict(fit, target, new, num_draws=400)
    assert made.mean.shape == (2, 3)
    np.testing.assert_allclose(made.draws.sum(axis=-1), 1.0, rtol=1e-6)
    assert made.frame()["level"].tolist() == ["low", "mid", "high"] * 2
    assert made.mean[1, 2] > made.mean[0, 2]


@pytest.mark.parametrize("family", ["cumulative", "categorical"])
def test_a_response_of_levels_is_one_at_the_one_that_is_drawn(family):
    levels = pd.Categorical(
        RNG.choice(["low", "mid", "high"], 60), ["low", "mid", "high"], ordered=True
    )
    frame = pd.DataFrame({"level": levels, "x": RNG.normal(size=60)})
    model = vr.glmm("level ~ x", frame, family)
    said = {"cumulative": "low < mid < high", "categorical": "each level beside low"}[family]
    assert f"({family}, logit, {said})" in model.description
    assert f"response  {said}\n" in str(model)
    target = vr.Target(model)
    fit = vr.Laplace().fit(target, throw=True)
    new = {"x": [0.0, 1.0]}
    mean = vr.predict(fit, target, new, num_draws=NUM_DRAWS)
    drawn = vr.predict(fit, target, new, "response", num_draws=NUM_DRAWS)
    np.testing.assert_array_equal(drawn.draws.sum(axis=-1), 1.0)
    assert set(np.unique(drawn.draws)) == {0.0, 1.0}
    error = 4 * np.sqrt(mean.mean * (1 - mean.mean) / NUM_DRAWS)
    np.testing.assert_array_less(abs(drawn.mean - mean.mean), error)
    assert drawn.frame()["level"].tolist() == ["low", "mid", "high"] * 2
    table = vr.comparisons(fit, target, frame, "x", kind="response")
    assert list(table["level"]) == ["low", "mid", "high"]
    assert table["estimate"].sum() == pytest.approx(0.0, abs=1e-9)


def test_it_is_said_which_of_two_levels_counts_as_one():
    frame = pd.DataFrame({"well": ["no", "yes", "no", "yes", "no"], "x": [0.0, 1.0, 2.0, 0.5, 0.7]})
    model = vr.glmm("well ~ x", frame, "bernoulli")
    assert model.description == "well ~ x (bernoulli, logit, 1 is yes, 0 is no)"
    assert "response  1 is yes, 0 is no\n" in str(model)
    flat = vr.glmm("well ~ x", frame, "bernoulli", priors="flat")
    assert flat.description == "well ~ x (bernoulli, logit, 1 is yes, 0 is no, flat priors)"
    assert "response" not in str(vr.glmm("y ~ x", FRAME)).split("rows")[0]


@pytest.mark.parametrize(
    ("newdata", "options", "says"),
    [
        ({"xx": [1.0], "g": ["a"]}, {}, "lacks x, of the formula's columns; is 'x' called 'xx'"),
        ({"g": ["a"], **{f"c{k}": [0.0] for k in range(999)}}, {}, r"c0, .* and \d+ more$"),
        ({"X": [1.0], "g": ["a"]}, {}, "is 'x' called 'X' there"),
        ({"x": [1.0]}, {}, "lacks g, of the group 'g'.*groups='population'.* it has x$"),
        ({"x": [1.0, None], "g": ["a", "b"]}, {}, r"data: 1 of 2 rows .*\(x 1.*; leave these"),
        ({"x": [1.0], "g": ["a"]}, {"kind": "men"}, "kind: got 'men'"),
        ({"x": [1.0], "g": ["a"]}, {"groups": "old"}, "groups: got 'old'"),
    ],
)
def test_new_data_that_will_not_do_are_refused(fitted, newdata, options, says):
    target, fit = fitted
    with pytest.raises(ValueError, match=says):
        vr.predict(fit, target, newdata, **options)


def test_offsets_of_new_rows_are_checked_as_those_of_the_data():
    frame = pd.DataFrame({"y": RNG.normal(size=9), "x": RNG.normal(size=9), "t": 1.0})
    target = vr.Target(vr.glmm("y ~ x", frame, offset="t"))
    fit = vr.MAP().fit(target, throw=True)
    for newdata, offset, says in (
        ({"x": [0.0, 1.0], "t": [1.0, None]}, None, "data: the offset is nan in row 2"),
        ({"x": [0.0, 1.0]}, [np.inf, 0.0], "data: the offset is inf in row 1"),
        ({"x": [0.0], "tt": [1.0]}, None, "lacks t, of the offset; is 't' called 'tt'.* It has x"),
        ({"x": [0.0, 1.0]}, [1.0], r"offset: got shape \(1,\), expected \(2,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            vr.predict(fit, target, newdata, offset=offset)


def test_a_level_that_the_data_did_not_have_is_named():
    frame = pd.DataFrame({"y": RNG.normal(size=9), "kind": list("pqr") * 3, "k": [1, 2, 3] * 3})
    for term, column, bad in (("kind", "kind", "z"), ("C(k)", "k", 9)):
        target = vr.Target(vr.glmm(f"y ~ {term}", frame))
        fit = vr.MAP().fit(target, throw=True)
        had = "p, q, r" if column == "kind" else "1, 2, 3"
        says = f"data: '{term}' has {bad}, which no row that was fitted has; they have {had}"
        with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
            vr.predict(fit, target, {column: [frame[column][0], bad]})


# -- any model ---------------------------------------------------------------------------------


def line(x, y):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a * x, SIGMA), obs=y)


def test_a_row_is_a_mapping_to_values(fitted):
    target, fit = fitted
    one = vr.predict(fit, target, {"x": 0.5, "g": "a"}, "linear")
    several = vr.predict(fit, target, {"x": [0.5, 0.5], "g": ["a", "b"]}, "linear")
    assert one.mean.shape == (1,)
    assert one.mean[0] == several.mean[0]
    row = pd.DataFrame({"x": [9.0, 0.5], "g": ["b", "a"]}).iloc[1]
    assert vr.predict(fit, target, row, "linear").mean[0] == one.mean[0]
    with pytest.raises(ValueError, match=r"^data: .* expected columns of one length"):
        vr.predict(fit, target, {"x": [0.5, 0.5], "g": ["a"]})
    with pytest.raises(ValueError, match=r"^data: got list"):
        vr.predict(fit, target, [0.5])


@pytest.mark.slow
def test_among_no_trials_a_probability_is_one_too():
    n = np.array([4, 0, 6, 8, 3, 9])
    frame = pd.DataFrame({"y": n // 3, "n": n, "x": np.arange(6.0)})
    for family in ("binomial", "betabinomial"):
        target = vr.Target(vr.glmm("p(y, n) ~ x", frame, family))
        fit = vr.MAP().fit(target, throw=True)
        at = {"x": [1.0, 1.0], "n": [0, 7]}
        none, some = vr.predict(fit, target, at).mean
        assert none == some
        assert 0 < some < 1
        assert (vr.predict(fit, target, at, "response").draws[..., 0] == 0).all()


def test_any_model_predicts_at_data_of_another_shape():
    x = np.array([0.5, 1.0, -1.0, 2.0])
    y = np.array([0.4, 1.3, -0.7, 2.2])
    target = vr.Target(line, x=x, y=y)
    fit = vr.Laplace().fit(target, throw=True)
    there = target.at(x=np.array([3.0, -2.0]), y=np.zeros(2))
    draws = vr.posterior_predictive(fit, there, num_draws=NUM_DRAWS)["y"][0]
    variance = 1 / (0.25 + x @ x / SIGMA**2)
    mean = variance * x @ y / SIGMA**2 * np.array([3.0, -2.0])
    sd = np.sqrt(variance * np.array([9.0, 4.0]) + SIGMA**2)
    np.testing.assert_array_less(abs(draws.mean(axis=0) - mean), 4 * sd / NUM_DRAWS**0.5)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=4 / (2 * NUM_DRAWS) ** 0.5)
    with pytest.raises(ValueError, match="fitted to other data"):
        vr.posterior_predictive(fit, vr.Target(line, x=x[:2], y=y[:2]))


def test_the_prior_predicts_data_of_its_own():
    x = np.array([0.5, 1.0, -1.0, 2.0])
    target = vr.Target(line, x=x, y=np.zeros(4))
    draws = vr.prior_predictive(target, num_draws=NUM_DRAWS)["y"]
    assert draws.shape == (1, NUM_DRAWS, 4)
    expected = 4.0 * np.outer(x, x) + SIGMA**2 * np.eye(4)
    wide = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(np.cov(draws[0].T) - expected) < 4 * wide * (2 / NUM_DRAWS) ** 0.5).all()
    flat = vr.Target(vr.glmm("y ~ x", FRAME, priors={"beta": "flat"}))
    with pytest.raises(ValueError, match="improper prior"):
        vr.prior_predictive(flat)


def test_new_members_of_any_model_are_refused():
    def model(g, num, y):
        with numpyro.plate("g", num):
            u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(u[g], 1.0), obs=y)

    target = vr.Target(model, g=np.array([0, 1]), num=2, y=np.zeros(2))
    says = "latent site 'u' has shape (3,), but (2,) in the fits"
    with pytest.raises(ValueError, match=re.escape(says)):
        target.at(num=3)


def test_keys_change_draws(fitted):
    target, fit = fitted
    one, two = (
        vr.predict(fit, target, NEW, "response", num_draws=20, key=jax.random.key(k)).draws
        for k in (1, 2)
    )
    assert (one != two).all()


def test_a_level_of_rows_left_out_is_not_said_to_be_none_of_the_data():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=9), "kind": list("pqr") * 3})
    frame.loc[frame["kind"] == "r", "y"] = np.nan
    target = vr.Target(vr.glmm("y ~ kind", frame, missing="drop"))
    fit = vr.MAP().fit(target, throw=True)
    says = "data: 'kind' has r, which no row that was fitted has; they have p, q"
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        vr.predict(fit, target, frame)


def test_an_offset_may_be_one_number_for_all_new_rows_and_is_known_by_name():
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=30), "t": rng.normal(size=30)}
    frame = pd.DataFrame({"y": rng.poisson(3, 30), **columns})
    target = vr.Target(vr.glmm("y ~ x", frame, "poisson", offset="t"))
    fit = vr.MAP().fit(target, throw=True)
    new = frame[["x"]].head(3)
    one = vr.predict(fit, target, new, offset=0.5).mean
    np.testing.assert_allclose(one, vr.predict(fit, target, new, offset=[0.5] * 3).mean)
    for made in (vr.slopes, vr.comparisons):
        own = made(fit, target, variables="x", offset="t")
        np.testing.assert_allclose(own["estimate"], made(fit, target, variables="x")["estimate"])

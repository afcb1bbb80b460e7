import re
import warnings

import numpy as np
import pandas as pd
import pytest

from vi_recipes.formula import glmm
from vi_recipes.formula.parse import parse

FRAME = pd.DataFrame(
    {
        "y": [0, 1, 1, 0, 1, 0, 1, 0],
        "x": [0.3, 1.2, -0.4, 0.6, 0.1, -1.0, 0.9, 2.0],
        "double": [0.6, 2.4, -0.8, 1.2, 0.2, -2.0, 1.8, 4.0],
        "count": [0, 3, 1, 2, 0, 5, 1, 4],
        "trials": [5, 5, 5, 5, 5, 5, 5, 5],
        "g": list("aabbccdd"),
        "one": ["k"] * 8,
        "row": list("abcdefgh"),
        "when": pd.date_range("2020", periods=8),
        "huge": np.linspace(0, 1e200, 8),
        "income": [1.0, np.nan, 2.0, 3.0, np.inf, 1.0, 2.0, 5.0],
    }
)


@pytest.mark.parametrize(
    ("formula", "place", "says"),
    [
        ("y ~ x +", 7, "got the end, expected a term"),
        ("y ~ x | g", 6, "group terms in parentheses"),
        ("y ~ x + (1 | g", 14, "got the end, expected ')'"),
        ("y ~ x * (1 | g)", 11, "group terms that are added"),
        ("y ~ (1 | g) * x", 12, "got '*', expected '+' after a group term"),
        ("y ~ x - (1 | g)", 6, "a group term is added, not taken away"),
        ("y ~ x + (1 | )", 13, "the column whose values are the groups"),
        ("y x", 2, "expected '~'"),
        ("~ x", 0, "the response before '~'"),
        ("y ~ x $ z", 6, "cannot read '$'; a column whose name is no word stands in backquotes"),
        ("y ~ x^2", 5, "cannot read '^'; a power of a column is {x**2}"),
        ("y ~ .", 4, "cannot read '.'; columns are written out, one by one"),
        ("y | weights(w) ~ x", 2, "(weights go into weights=, trials into p(y, n))"),
        ("y ~ log(x,)", 10, "expected a term"),
        ("y ~ x z", 6, "got 'z'"),
        ("y ~ _x", 4, "stands in backquotes"),
    ],
)
def test_a_formula_that_does_not_parse_is_marked(formula, place, says):
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        parse(formula)
    _, shown, mark = str(raised.value).split("\n")
    assert shown[2:] == formula
    assert mark.index("^") - 2 == place


@pytest.mark.parametrize(
    ("formula", "family", "options", "says"),
    [
        ("y ~ xx", "bernoulli", {}, "unknown column 'xx'; did you mean 'x'"),
        ("y ~ x + (1 | gg)", "bernoulli", {}, "unknown column 'gg'; did you mean 'g'"),
        ("count ~ x", "bernoulli", {}, "row 2: got 3, expected 0 and 1"),
        ("x ~ g", "poisson", {}, r"row 1: got 0.3, expected whole numbers from 0 \(family 'poi"),
        ("x ~ g", "gamma", {}, "row 3: got -0.4, expected numbers above 0"),
        ("p(count, y) ~ x", "binomial", {}, "row 2: got 3 among 1 trials"),
        ("p(count, x) ~ 1", "binomial", {}, "trials, row 1: got 0.3, expected whole numbers"),
        ("g ~ x", "bernoulli", {}, r"got 4 levels \(a, b, c, d\), expected two"),
        ("g ~ x", "gaussian", {}, "got 'a', expected numbers"),
        ("y ~ x", "betabinomial", {}, "expected whole numbers of successes"),
        ("y ~ x + double", "bernoulli", {}, "column double is a combination of x"),
        ("y ~ g + C(g, Sum)", "bernoulli", {}, r"is a combination of Intercept"),
        ("y ~ x + (x + double | g)", "bernoulli", {}, "double of g is a combination of x of g"),
        ("y ~ x + (trials | g)", "bernoulli", {}, "trials of g is a combination of Intercept of g"),
        ("x ~ 1 + (1 | one)", "gaussian", {}, "group 'one' has one member"),
        ("x ~ 1 + (1 | row)", "gaussian", {}, "group 'row' has 8 members in 8 rows"),
        ("y ~ x", "bernoulli", {"weights": "x"}, "weights, row 1: got 0.3, expected whole"),
        ("y ~ x", "bernoulli", {"weights": [1] * 7}, r"weights: got shape \(7,\)"),
        ("y ~ x", "bernoulli", {"weights": "w"}, "weights: unknown column 'w'"),
        ("y ~ income", "bernoulli", {}, r"2 of 8 rows have missing or inf.* \(income 2; .* row 2"),
        ("y ~ x", "bernouli", {}, "did you mean 'bernoulli'"),
        ("y ~ x", "bernoulli", {"link": "log"}, "link: got 'log', expected one that family"),
        ("y ~ x", "bernoulli", {"priors": {"b": 1.0}}, "priors: unknown site or coefficient 'b'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Norml(0, 1)"}}, "did you mean 'Normal'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Normal(0, Cauchi(1))"}}, "mean 'Cauchy'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Normal(0, -1)"}}, "got 'Normal.0, -1.'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Normal(0, x)"}}, "a number, or 'flat'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Normal 0, 1"}}, "a number, or 'flat'"),
        ("y ~ x", "bernoulli", {"priors": {"beta": "Normal(0, 1) + 1"}}, "a number, or 'flat'"),
        ("y ~ x", "bernoulli", {"priors": "wide"}, "priors: got 'wide', expected 'flat'"),
        ("x ~ y", "gaussian", {"priors": {"sigma": "Normal(0, 1)"}}, "expected one whose support"),
        ("y ~ sqroot(x)", "bernoulli", {}, "unknown function 'sqroot'; did you mean 'sqrt'"),
        ("y ~ s(x)", "bernoulli", {}, r"there is no 's' .*; a spline is bs\(x, df=5\)"),
        (
            "y ~ factor(x)",
            "bernoulli",
            {},
            r"there is no 'factor' .*; numbers are levels by C\(x\)",
        ),
        ("y ~ x", "bernoulli", {"weights": [0] * 8}, "weights: got 0 in every row"),
        ("y ~ x", "bernoulli", {"offset": [np.inf] * 8}, r"infinite values \(offset= 8; .* row 1"),
        ("x ~ x", "gaussian", {}, "the response 'x' is among its own terms"),
        ("x ~ log(x)", "gaussian", {}, "the response 'x' is among its own terms"),
        ("x ~ (1 | g) + (y | g)", "gaussian", {}, r"\(1 \| g\) and \(y \| g\) both have effect 1"),
        ("x ~ (1 | g) + (y * count | g)", "gaussian", {}, r"both have effect 1 of g"),
        ("x ~ (0 + y | g) + (0 + count * y | g)", "gaussian", {}, r"both have effect y of g"),
        ("x ~ (1 | g:y) + (1 | y:g)", "gaussian", {}, r"both have effect 1 of y:g"),
        ("x ~ (1 | g) + (1 | g/y)", "gaussian", {}, r"both have effect 1 of g,"),
        ("C(y) ~ x", "bernoulli", {}, r"response 'C\(y\)': it has 2 columns, expected one"),
        ("C(count) ~ x", "categorical", {}, "levels are those of a column, which stands alone"),
        ("x > 0 ~ y", "bernoulli", {}, r"what is computed stands in braces, \{x > 0\}"),
        ("x / trials ~ y", "gaussian", {}, r"stands in braces, \{x / trials\}"),
        ("x ~ y", "cumulative", {}, "row 1: got 0.3, expected ordered levels, or whole numbers"),
        ("y ~ 3 * x", "bernoulli", {}, r"a number among terms is 0 or 1; what is computed stands"),
        ("y ~ x > 0", "bernoulli", {}, r"got '>': what is computed stands in braces, such as"),
        ("y ~ x + 'a'", "bernoulli", {}, "got text, expected a column"),
        ("y ~ g['a']", "bernoulli", {}, r"its indicator is \{g == 'a'\}"),
        ("x ~ g:C(y):C(count > 1)", "gaussian", {}, "interactions of three categories"),
        ("x ~ y * one", "gaussian", {}, r"column 'one' has one level \(k\), which tells nothing"),
        ("x ~ (C(trials) | g)", "gaussian", {}, r"column 'trials' has one level \(5\)"),
        ("x ~ (1 | a) + (1 | g)", "gaussian", {}, "unknown column 'a'"),
        ("y ~ log(x)", "bernoulli", {}, r"column log\(x\) is nan in row 3"),
        ("y ~ offset(log(x))", "bernoulli", {}, "the offset is nan in row 3"),
        ("y ~ x ** 2", "bernoulli", {}, r"that of a column is \{x\*\*2\}"),
        ("when ~ x", "gaussian", {}, "column 'when' holds dates or times"),
        ("y ~ huge", "bernoulli", {}, "column 'huge' has numbers beyond 1e.100"),
        ("trials ~ x", "gaussian", {}, "got 5 in every row"),
        ("one ~ x", "categorical", {}, r"got one level \(k\)"),
        ("count ~ x", "multinomial", {}, "expected whole numbers from 0 of every level"),
        ("cbind(count, x) ~ y", "multinomial", {}, "trials, row 1|row 1: got 0, 0.3"),
        (["x ~ y", "sgma ~ y"], "gaussian", {}, "expected a parameter of family 'gaussian': sigma"),
    ],
)
def test_what_is_wrong_is_said(formula, family, options, says):
    with pytest.raises(ValueError, match=says):
        glmm(formula, FRAME, family, **options)


def test_rows_left_out_are_counted():
    model = glmm("y ~ income + (1 | g)", FRAME, "bernoulli", missing="drop", weights="trials")
    assert len(model.response.y) == 6
    assert model.notes == ("2 of 8 rows left out for missing or infinite values (income 2)",)
    assert "2 of 8 rows left out" in model.description
    assert len(model.data()["weights"]) == 6
    assert "rows      6, which count as 30 by their weights" in str(model)


@pytest.mark.parametrize("family", ["bernoulli", "binomial"])
def test_separation_names_its_column(family):
    frame = FRAME.assign(split=np.where(FRAME["y"] == 1, 2.0, 1.0), n=3)
    formula = "y ~ x + split" if family == "bernoulli" else "cbind(3 * y, 3 - 3 * y) ~ split"
    with pytest.warns(UserWarning, match="separated by .*split") as told:
        glmm(formula, frame, family)
    assert "x," not in str(told[0].message)
    with pytest.raises(ValueError, match=r"split.*priors='flat' bounds nothing"):
        glmm(formula, frame, family, priors="flat")
    of_all = {"beta": "Normal(0, 1)", "split": "flat"}  # of "x" there, where there is one
    for priors in ({"beta": "flat"}, {"split": "flat"}, *([of_all] if "x" in formula else [])):
        with pytest.raises(ValueError, match=r"split.*its prior is flat; leave the column out"):
            glmm(formula, frame, family, priors=priors)
    with pytest.warns(UserWarning, match="only the prior bounds"):
        glmm(formula, frame, family, priors={"split": "Normal(0, 1)", "Intercept": "flat"})


def test_numbers_that_were_read_as_text_are_told():
    values = np.round(np.random.default_rng(0).normal(size=30), 3).astype(str)
    values[4] = "n/a"
    frame = pd.DataFrame({"y": np.arange(60.0) % 7, "x": np.tile(values, 2)})
    says = r"'x' is text with 30 levels, all of them numbers but n/a.*, or write C\(x\)"
    with pytest.warns(UserWarning, match=says):
        model = glmm("y ~ x", frame)
    assert model.notes[0].startswith("column 'x' is text")
    assert not glmm("y ~ C(x)", frame).notes
    with pytest.warns(UserWarning, match=r"'an x' .*, or write C\(`an x`\)") as told:
        glmm("y ~ `an x`", frame.rename(columns={"x": "an x"}))
    assert {one.filename for one in told} == {__file__}  # the user's line, not one of ours
    assert not glmm("y ~ C(`an x`)", frame.rename(columns={"x": "an x"})).notes
    assert not glmm("y ~ x", frame.assign(x=["a", "b", "3"] * 20)).notes
    with pytest.warns(UserWarning, match=r"'x' is text with 30 levels"):
        glmm("y ~ (x | g)", frame.assign(g=np.arange(60) % 2))


@pytest.mark.parametrize(
    ("one", "says"),
    [
        ("1,{k:02}", "all of them numbers with commas, spaces or units, .* numbers without them"),
        ("{k},400.5", "numbers with commas"),
        ("{k} 400", "numbers with commas, spaces"),
        ("{k} %", "units"),
        ("2020-01-{k:02}", "all of them dates, .* make numbers, such as days, of it"),
        ("{k}.3.2021", "dates"),
        ("3/{k}/2021 10:30", "dates"),
        ("1{k}e-2", "all of them numbers, "),
    ],
)
def test_numbers_as_people_write_them_are_told(one, says):
    values = [one.format(k=k) for k in range(1, 13)]
    frame = pd.DataFrame({"y": np.arange(36.0) % 7, "x": values * 3})
    with pytest.warns(UserWarning, match=f"'x' is text with 12 levels.*{says}"):
        glmm("y ~ x", frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glmm("y ~ x", frame.assign(x=[f"plot {v}" for v in values] * 3))


@pytest.mark.parametrize("term", ["k", "(1 | k)", "x:k"])
def test_levels_that_spaces_alone_tell_apart_are_told(term):
    frame = pd.DataFrame({"y": np.arange(60.0) % 7, "x": np.arange(60.0) % 11})
    frame["k"] = np.resize(["New York", "Lima", "New  York", "Lima"], 60)
    says = "column 'k' has 'New York' and 'New  York', which spaces alone tell apart"
    for made in (frame, frame.astype({"k": "category"})):
        with pytest.warns(UserWarning, match=says):
            assert says in glmm(f"y ~ {term}", made).notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glmm(f"y ~ {term}", frame.assign(k=np.resize(["a b", "ab", "a c"], 60)))
        glmm("y ~ x", frame)


def test_formula_and_data_the_other_way_round_are_told():
    with pytest.raises(ValueError, match=r"formula: got DataFrame, and the formula as data: exp"):
        glmm(FRAME, "y ~ x")


def test_spaces_around_names_of_columns_do_not_count(tmp_path):
    """A csv with a space behind its commas has them in its header."""
    path = tmp_path / "d.csv"
    path.write_text("y, x ,g\n1,0.5,a\n0,1.5,b\n1,2.5,a\n0,3,b\n1,4,a\n")
    assert glmm("y ~ x", str(path), "bernoulli").predictors[0].design.labels == ["x"]
    with pytest.raises(ValueError, match="data: several columns are called 'x'"):
        glmm("y ~ x", FRAME.assign(**{"x ": 1.0}), "bernoulli")


def test_columns_of_one_name_are_refused():
    twice = pd.concat([FRAME, FRAME[["x"]]], axis=1)
    with pytest.raises(ValueError, match="data: several columns are called 'x'"):
        glmm("y ~ x", twice, "bernoulli")


def test_many_rows_are_told_apart_too():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"x": rng.normal(size=5_000), "z": rng.normal(size=5_000)})
    frame["y"] = (frame["x"] > 0.2).astype(int)
    with pytest.raises(ValueError, match="separated by x:"):
        glmm("y ~ x + z", frame, "bernoulli", priors="flat")
    frame.loc[frame["x"].idxmax(), "y"] = 0  # most few rows do not have this one
    glmm("y ~ x + z", frame, "bernoulli", priors="flat")
    frame["y"] = rng.integers(0, 2, len(frame))
    glmm("y ~ x + z", frame, "bernoulli", priors="flat")


def test_what_is_not_separated_is_not_said():
    glmm("y ~ x", FRAME, "bernoulli", priors="flat")
    glmm("p(count, trials) ~ x", FRAME, "binomial", priors="flat")
    # counts that are zero at one level of a covariate have no finite coefficient either
    frame = FRAME.assign(level=["n", "m"] * 4, none=[0, 3] * 4)
    with pytest.raises(ValueError, match=r"separated by .*level\[n\]"):
        glmm("none ~ level", frame, "poisson", priors="flat")


@pytest.mark.parametrize("term", ["bs(x, df=4):g", "bs(x, df=4) * double"])
def test_what_is_not_multiplied_is_told_with_what_is(term):
    says = (
        r"bs\(\) is not multiplied by other terms; poly\(x, 3\) is, and so are columns of the data$"
    )
    with pytest.raises(ValueError, match=rf"^formula: '.*' cannot be evaluated: {says}"):
        glmm(f"y ~ {term}", FRAME.drop(columns="income"), "bernoulli")
    glmm("count ~ poly(x, 2):double", FRAME.drop(columns="income"), "poisson")


def test_rows_that_do_not_count_are_not_looked_at():
    """Of weight 0, and among no trials: what is said is what is said without them."""
    rows = pd.DataFrame({"y": [0, 0, 1, 1, 0, 1, 0, 1], "x": [1.0, 2, 3, 4, 9, 0, 8, 0.5]})
    rows = rows.assign(w=[1, 2, 1, 1, 0, 0, 0, 0], n=[3, 3, 3, 3, 0, 0, 0, 0])
    rows = rows.assign(k=list("ababacac"), g=list("uvuvxyxy"), z=rows["x"] ** 2)
    rows.loc[:3, "z"] = 2 * rows["x"][:4]
    rows = rows.assign(s=rows["y"] * rows["n"], v=[1.0, 1, 1, 1, 2, 3, 4, 5], one=list("uuuuxyxy"))
    for formula, family, weights in (
        ("y ~ x", "bernoulli", "w"),
        ("p(s, n) ~ x", "binomial", None),
    ):
        with pytest.raises(ValueError, match="the responses are separated by x:"):
            glmm(formula, rows, family, weights=weights, priors="flat")
    for weights, formula, which in (
        ("w", "y ~ {0}", "of weight above 0"),
        (None, "p(s, n) ~ {0}", "among some trials"),
    ):
        family = "bernoulli" if weights else "binomial"
        with pytest.raises(ValueError, match=rf"k\[c\] is zero in every row {which}.* or its rows"):
            glmm(formula.format("k"), rows, family, weights=weights)
        with pytest.raises(ValueError, match=f"z is a combination of x in the rows {which}"):
            glmm(formula.format("x + z"), rows, family, weights=weights)
        with pytest.raises(ValueError, match=r"one member \(u\) in the rows that count"):
            glmm(formula.format("(1 | one)"), rows, family, weights=weights)
    with pytest.raises(ValueError, match="got 1 in every row of weight above 0"):
        glmm("v ~ x", rows, weights="w")
    more = rows.assign(w=1, n=4, s=[0, 1, 2, 3, 1, 0, 2, 1], v=[1.0, 2, 1, 4, 2, 3, 4, 5])
    glmm("y ~ x", more, "bernoulli", weights="w", priors="flat")
    glmm("p(s, n) ~ x + z + k + (1 | one)", more, "binomial")
    # a member of one row that counts three times has three rows
    twice = rows.assign(w=[2, 2, 2, 2, 0, 0, 0, 0], v=more["v"], row=range(8))
    glmm("v ~ 1 + (1 | row)", twice, weights="w")
    with pytest.raises(ValueError, match="4 members in 4 rows"):
        glmm("v ~ 1 + (1 | row)", twice.assign(w=[1, 1, 1, 1, 0, 0, 0, 0]), weights="w")


SEPARATED = pd.DataFrame(
    {
        "x": [0.1, 0.4, 0.3, 1.2, 1.5, 1.1, 2.2, 2.9, 2.4],
        "z": [0.3, -1.0, 0.2, 0.7, -0.4, 0.1, 0.5, -0.2, 0.9],
        "low": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "count": [0, 0, 0, 2, 1, 3, 0, 2, 1],
        "kind": list("aaabbbccc"),
        "level": list("uuuvvvwww"),
        "ones": [0, 3, 1, 0, 1, 1, 4, 2, 0],
    }
)


@pytest.mark.parametrize(
    ("formula", "family", "named"),
    [
        ("low ~ x + z", "cumulative", "x"),
        ("kind ~ x + z", "categorical", r"beta_c\[x\]"),
        ("cbind(low, ones) ~ z + level", "multinomial", r"beta_ones\[level\[v\]\], .*\[w\]\]"),
        (["count ~ z", "zero ~ level"], "hurdle_poisson", r"beta_zero\[level\[v\]\]"),
        ("ones ~ level", "hurdle_negbinomial", r"level\[v\]"),
        ("count ~ level", "hurdle_poisson", r"level\[u\]"),
        ("count ~ level", "zero_inflated_poisson", r"level\[v\], level\[w\]"),
    ],
)
def test_every_family_tells_what_separates_its_responses(formula, family, named):
    """Checked by hand: along what is named the likelihood rises, whatever the others are."""
    says = f"(separated by {named}:|column {named} is)"
    frame = SEPARATED.assign(level=pd.Categorical(SEPARATED["level"], list("vuw")))
    frame = frame if named == r"level\[u\]" else SEPARATED
    with pytest.raises(ValueError, match=rf"{says}.*priors='flat' bounds nothing"):
        glmm(formula, frame, family, priors="flat")
    with pytest.warns(UserWarning, match=f"{says}.*only the prior bounds it"):
        glmm(formula, frame, family)


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("low ~ z", "cumulative"),
        ("kind ~ z", "categorical"),
        ("cbind(count, ones) ~ z", "multinomial"),
        (["count ~ z", "zero ~ z"], "hurdle_poisson"),
        ("ones ~ z", "hurdle_poisson"),
    ],
)
def test_what_is_not_separated_is_not_said_of_any_family(formula, family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glmm(formula, SEPARATED, family, priors="flat")

"""Columns as data frames come: nullable, Arrow's, objects, names of every kind, unlike new data."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.formula import glmm
from vi_recipes.formula.newdata import new_rows

RNG = np.random.default_rng(6)
ROWS = 40
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=ROWS),
        "x": RNG.normal(size=ROWS),
        "arm": np.resize(["a b", "c%", "d_&"], ROWS),
        "flag": RNG.random(ROWS) < 0.4,
        "k": np.resize([3, 1, 2, 2], ROWS),
        "g": np.repeat([3, 7, 8, 20, 41], 8),
        "t": RNG.uniform(1.0, 2.0, ROWS),
    }
)
FORMULA = "y ~ x * arm + flag + C(k) + offset(t) + (1 + x | g)"
MODEL = glmm(FORMULA, FRAME)
NAMES = ("X", "Z_g", "g", "offset", "y")


def as_objects(frame):
    return pd.DataFrame({name: pd.Series(list(c), dtype=object) for name, c in frame.items()})


def as_arrow(frame):
    pytest.importorskip("pyarrow")
    return frame.convert_dtypes(dtype_backend="pyarrow")


def as_decimals(frame):
    return frame.assign(x=[Decimal(repr(v)) for v in frame["x"].tolist()])


KINDS = {
    "nullable": lambda f: f.convert_dtypes(),
    "arrow": as_arrow,
    "objects": as_objects,
    "decimals": as_decimals,
    "categories": lambda f: f.astype(dict.fromkeys(("arm", "g", "k"), "category")),
    "unused": lambda f: f.assign(arm=pd.Categorical(f["arm"], ["a b", "c%", "d_&", "none"])),
    "single": lambda f: f.astype({"k": "uint8", "g": "int16"}),
    "index": lambda f: f.set_axis(np.zeros(len(f), int)),
    "lists": lambda f: f.to_dict("list"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_every_kind_are_the_same_model(kind):
    model = glmm(FORMULA, KINDS[kind](FRAME))
    assert model.predictors[0].design.labels == MODEL.predictors[0].design.labels
    assert model.groups[0].factor.labels == MODEL.groups[0].factor.labels
    for name in NAMES:
        np.testing.assert_allclose(model.data()[name], MODEL.data()[name], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_new_data_of_another_kind_are_the_same_rows(kind):
    rows = FRAME.iloc[7:30]
    for model, new in ((MODEL, KINDS[kind](rows)), (glmm(FORMULA, KINDS[kind](FRAME)), rows)):
        at = new_rows(model, new, "known", None)
        assert at.extra == {"g": 0}
        for name in NAMES[:-1]:
            np.testing.assert_allclose(at.arguments[name], MODEL.data()[name][7:30], rtol=1e-12)


def test_members_and_levels_are_found_where_one_side_has_numbers_and_the_other_text():
    as_text, rows = FRAME.astype({"g": str, "k": str}), slice(7, 30)
    for had, new in ((FRAME, as_text), (as_text, FRAME)):
        model = glmm(FORMULA, had)
        at = new_rows(model, new.iloc[rows], "known", None)
        assert at.extra == {"g": 0}
        for name in NAMES[:-1]:
            np.testing.assert_allclose(at.arguments[name], model.data()[name][rows], rtol=1e-12)


def test_new_members_beside_numbers_and_text():
    model = glmm(FORMULA, FRAME.astype({"g": str}))
    new = FRAME.iloc[[0, 8, 16, 20]].assign(g=[7.0, np.nan, 99.0, 99.0])
    at = new_rows(model, new, "known", None)
    member = model.groups[0].factor.labels.index("7")
    assert at.arguments["g"].tolist() == [member, 6, 5, 5]


def test_numbers_that_new_data_have_as_text_are_told():
    with pytest.raises(ValueError, match=r"data: column 'x' holds '0\.5', expected numbers"):
        new_rows(MODEL, FRAME.head(2).assign(x=["0.5", "1"]), "known", None)


def test_new_data_outside_a_function_are_told():
    frame = FRAME.assign(x=np.exp(FRAME["x"]))
    for formula, what in (("log(x)", "column log.x. is nan"), ("offset(log(x))", "offset is nan")):
        model = glmm(f"y ~ t + {formula}", frame)
        with pytest.raises(ValueError, match=f"data: .*{what} in row 2, where a finite"):
            new_rows(model, {"x": [1.0, -1.0], "t": [1.0, 1.0]}, "known", None)


def test_whole_numbers_stay_whole_where_rows_are_left_out():
    frame = FRAME.assign(
        g=FRAME["g"].where(FRAME["x"] < 1.2), k=FRAME["k"].where(FRAME["x"] > -1.4),
        flag=FRAME["flag"].astype("boolean").where(FRAME["x"] < 1.4),
    )  # fmt: skip
    kept = FRAME[frame.notna().all(axis=1)]
    assert len(kept) < ROWS
    model, whole = glmm(FORMULA, frame, missing="drop"), glmm(FORMULA, kept)
    labels = model.groups[0].factor.labels
    assert labels == whole.groups[0].factor.labels == ["3", "7", "8", "20", "41"]
    assert model.predictors[0].design.labels == whole.predictors[0].design.labels
    np.testing.assert_array_equal(model.data()["X"], whole.data()["X"])


RENAMED = {
    "spaces": {"x": "my x", "arm": "größe", "flag": "is%ok", "k": "K-1", "g": "Gruppe.1"},
    "dots": {"x": "x.1", "arm": "a.b", "g": "g h", "t": "log t"},
    "keywords": {"y": "1y", "x": "class", "arm": "lambda", "g": "for", "flag": "None"},
    "taken": {"x": "mu", "arm": "eta", "g": "sigma", "k": "row", "flag": "beta", "t": "offset_2"},
    "signs": {"x": "x[1]", "arm": "p:q", "g": "a/b", "flag": "a|b", "k": "k*2"},
}


@pytest.mark.parametrize("kind", RENAMED)
def test_columns_are_called_anything(kind):
    names = RENAMED[kind]
    frame, other = FRAME.rename(columns=names), {n: f"`{names.get(n, n)}`" for n in FRAME}
    formula = (
        "{y} ~ {x} * {arm} + {flag} + C({k}) + offset({t}) + (1 + {x} | {g}) + (1 | {arm}:{flag})"
    ).format(**other)
    plain = FORMULA + " + (1 | arm:flag)"
    model, here = glmm(formula, frame), glmm(plain, FRAME)
    values, expected = ([*m.data().values()] for m in (model, here))
    assert len(values) == len(expected)
    for one, two in zip(values, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    labels = model.predictors[0].design.labels
    assert labels[0] == names.get("x", "x")
    assert f"{names.get('k', 'k')}[2]" in labels
    assert vr.Target(model).dim == vr.Target(here).dim


@pytest.mark.parametrize("name", ["Treatment", "Sum", "Helmert", "Polynomial", "np"])
def test_columns_are_called_as_contrasts(name):
    frame, other = FRAME.rename(columns={"k": name}), "Sum" if name == "Helmert" else "Helmert"
    for formula in (
        "y ~ x * {k} + C(arm, {other})",
        "y ~ x + ({k} | g) + (C({k}, {other}) | arm)",
    ):
        one, two = (
            glmm(formula.format(k=k, other=other), f) for k, f in ((name, frame), ("k", FRAME))
        )
        for made, expected in zip(one.data().values(), two.data().values(), strict=True):
            np.testing.assert_array_equal(made, expected)
        assert vr.Target(one).dim == vr.Target(two).dim


def test_a_column_called_as_the_intercept_is_refused():
    with pytest.raises(ValueError, match=r"column 'Intercept'.* rename it"):
        glmm("y ~ Intercept + x", FRAME.rename(columns={"t": "Intercept"}))


@pytest.mark.parametrize(
    "dates",
    [
        pd.date_range("2020", periods=ROWS),
        pd.period_range("2020", periods=ROWS, freq="D"),
        [datetime.date(2020, 1, 1 + k % 5) for k in range(ROWS)],
    ],
)
def test_dates_are_refused_with_a_cure(dates):
    frame = FRAME.assign(when=dates)
    for formula in ("y ~ when", "y ~ x + (1 | when)"):
        with pytest.raises(ValueError, match=r"column 'when' holds dates.* first, or text"):
            glmm(formula, frame)


def test_intervals_and_numbers_beside_text_are_levels():
    frame = FRAME.assign(
        cut=pd.cut(FRAME["x"], [-9, -0.5, 0.5, 9]), mixed=pd.Series(np.resize([1, "b", 2], ROWS))
    )
    model = glmm("y ~ cut + mixed", frame)
    labels = ["cut[(-0.5, 0.5]]", "cut[(0.5, 9.0]]", "mixed[2]", "mixed[b]"]
    assert model.predictors[0].design.labels == labels
    at = new_rows(model, frame.iloc[3:9], "known", None)
    np.testing.assert_array_equal(at.arguments["X"], model.data()["X"][3:9])


def test_frames_of_polars():
    pl = pytest.importorskip("polars")
    model = glmm(FORMULA, pl.from_pandas(FRAME))
    for name in NAMES:
        np.testing.assert_allclose(model.data()[name], MODEL.data()[name], rtol=1e-12)


def test_names_are_one_however_their_accents_are_written():
    composed, apart = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    for name, asked in ((composed, apart), (apart, composed)):
        frame = FRAME.rename(columns={"x": name, "k": name + "n"})
        model = glmm(f"y ~ {asked} + arm", frame, weights=f"{asked}n")
        assert f"beta[{composed}]" in vr.Target(model).labels(["beta"], coords=True)
        at = new_rows(model, frame.iloc[:3], "known", None)
        np.testing.assert_array_equal(at.arguments["X"], model.data()["X"][:3])
    twice = FRAME.assign(**{composed: 1.0, apart: 2.0})
    with pytest.raises(ValueError, match="several columns are called"):
        glmm("y ~ x", twice)


LARGE = 2**60
"""From it on a float does not tell a whole number from the next."""


def test_large_whole_numbers_that_are_levels_stay_apart():
    ids = LARGE + FRAME["g"]
    labels = [str(LARGE + k) for k in (3, 7, 8, 20, 41)]
    lacks = pd.array(ids, dtype="Int64")
    lacks[3] = pd.NA
    for values in (ids, ids.astype("uint64"), lacks, list(lacks), ids.astype(str)):
        model = glmm("y ~ x + (1 | id)", FRAME.assign(id=values), missing="drop")
        assert list(vr.Target(model).coords["id"]) == labels
        at = new_rows(model, {"x": [0.0, 0.0], "id": [LARGE + 8, None]}, "known", None)
        assert at.arguments["id"][0] == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([10**30 + k * 10**29 for k in range(ROWS)], "too large for a computer's integers"),
        (np.arange(ROWS) + 1j, "holds complex numbers"),
        (pd.Series([complex(k, 1) for k in range(ROWS)], dtype=object), "holds complex numbers"),
    ],
)
def test_numbers_that_no_design_holds_are_refused(values, said):
    frame = FRAME.assign(z=values)
    for formula in ("y ~ z", "z ~ x", "y ~ x + (1 | z)"):
        with pytest.raises(ValueError, match=rf"^data: column 'z' .*{said}"):
            glmm(formula, frame)
    assert glmm("y ~ x", frame)  # what is not asked for is let alone


def test_the_first_response_that_is_no_number_is_named():
    text = FRAME["y"].astype(str).to_list()
    text[2] = "abc"
    for values in (text, pd.Categorical(text)):
        with pytest.raises(ValueError, match=r"^response 'y', row 3: got 'abc', expected numbers"):
            glmm("y ~ x", FRAME.assign(y=values))


def test_names_of_several_levels_and_one_row_are_refused():
    with pytest.raises(ValueError, match=r"^data: its columns have names of 2 levels"):
        glmm("y ~ x", pd.concat({"a": FRAME}, axis=1))
    with pytest.raises(ValueError, match=r"^response 'y': got one row, expected several$"):
        glmm("y ~ x", FRAME[:1])
    with pytest.raises(ValueError, match=r"unknown function 'lg'; did you mean 'log'"):
        glmm("y ~ lg(t)", FRAME)


@pytest.mark.parametrize("kind", ["text", "object", "category"])
def test_levels_and_members_are_one_however_their_accents_are_written(kind):
    composed, apart = "S\u00e3o", "Sa\u0303o"
    rows = np.arange(len(FRAME))
    town = np.array([composed, "Lima", "Oslo"])[rows % 3]
    mixed = np.where(rows % 2 == 0, town, np.where(town == composed, apart, town))
    made = {"text": "str", "object": object, "category": "category"}[kind]
    frame = FRAME.assign(town=pd.Series(mixed, dtype=made))
    for formula in ("y ~ x + (1 | town)", f'y ~ C(town, Treatment("{apart}"))'):
        plain, model = glmm(formula, FRAME.assign(town=town)), glmm(formula, frame)
        for name, values in plain.data().items():
            np.testing.assert_array_equal(model.data()[name], values)
        at = new_rows(model, {"x": [0.0] * 2, "town": [apart, composed]}, "known", None)
        for name in set(at.arguments) & {"X", "town"}:
            np.testing.assert_array_equal(*at.arguments[name])
        assert not any(at.extra.values())


def test_a_prior_and_an_offset_are_found_however_their_accents_are_written():
    composed, apart = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    frame = FRAME.rename(columns={"x": composed})
    model = glmm(f"y ~ {composed}", frame, priors={f"beta[{apart}]": "Normal(0, 0.1)"})
    assert "0.1" in model.priors["beta"]
    model = glmm("y ~ arm", frame, offset=apart)
    at = new_rows(model, frame.iloc[:3], "known", None)
    np.testing.assert_array_equal(at.arguments["offset"], model.data()["offset"][:3])

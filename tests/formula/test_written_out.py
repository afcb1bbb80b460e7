"""Products, nestings and powers of terms: what they stand for, and the columns that they span."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.formula.designs import Design
from vi_recipes.formula.terms import written_out

RNG = np.random.default_rng(2)
ROWS = 90
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=ROWS),
        "x": RNG.normal(size=ROWS),
        "t": RNG.normal(size=ROWS),
        "k": RNG.choice(list("abc"), ROWS),
        "h": RNG.choice(list("uv"), ROWS),
        "m": RNG.choice(list("rs"), ROWS),
        "g": np.resize(list("pqrst"), ROWS),
    }
)

STANDS_FOR = {
    "k / x": "1 + k + k:x",
    "k / h / x": "1 + k + k:h + k:h:x",
    "(x + k) / h": "1 + x + k + x:k:h",
    "(x + k + h)**2": "1 + x + k + h + x:k + x:h + k:h",
    "(x + k + h)**3 - x:k:h": "1 + x + k + h + x:k + x:h + k:h",
    "k:(x + h)": "1 + k:x + k:h",
    "x * k - x": "1 + k + x:k",
    "0 + k:x + x": "0 + x + k:x",
    "x:k + k:x + x + x": "1 + x + x:k",
    "(1 + x):k - 1": "0 + k + x:k",
    "k:k": "1 + k",
    "x + -1": "0 + x",
    "log(x / t + 2):k + {x / t}": "1 + {x / t} + log(x / t + 2):k",
    "`a b` * x": "1 + `a b` + x + `a b`:x",
}


@pytest.mark.parametrize("text", STANDS_FOR)
def test_terms_are_written_out(text):
    assert written_out(text) == STANDS_FOR[text]
    assert written_out(STANDS_FOR[text]) == STANDS_FOR[text]


def columns(term):
    """Return all products of the columns of a term's factors, an indicator of every level."""
    made = [np.ones(ROWS)]
    for name in term.split(":") if term not in ("0", "1") else ():
        values = FRAME[name].to_numpy()
        own = [values] if values.dtype.kind == "f" else [values == v for v in np.unique(values)]
        made = [one * two for one, two in product(made, own)]
    return [] if term == "0" else made


@pytest.mark.parametrize(
    "text",
    ["k / x", "h / k", "k / h / x", "(x + k + h)**2", "(x + t + k)**2 - 1", "k:(x + h)",
     "x:(k + h)", "h:(k + x) + k", "(k + x) * (h + t)", "k:h + x:k", "0 + k:h + t", "k * h * m",
     "x:k:h:m", "0 + (x + k + h + m)**2"],
)  # fmt: skip
def test_terms_span_what_they_stand_for(text):
    """As in R: an indicator of every level and of every combination, and none too many."""
    design = Design(text, FRAME)
    whole = [column for term in written_out(text).split(" + ") for column in columns(term)]
    whole = np.column_stack(whole).astype(float)
    ours = np.column_stack([np.ones((ROWS, int(design.intercept))), design.matrix])
    rank = np.linalg.matrix_rank
    assert rank(ours) == rank(whole) == rank(np.column_stack([ours, whole])) == ours.shape[1]
    assert len(set(design.labels)) == design.matrix.shape[1]
    for label, column in zip(design.labels, design.matrix.T, strict=True):
        levels = [part[:-1].split("[") for part in label.split(":") if part.endswith("]")]
        inside = np.all([FRAME[name] == level for name, level in levels], axis=0)
        assert (column[~np.broadcast_to(inside, ROWS)] == 0).all()  # it is what it is called
    some = FRAME.iloc[[41, 3, 77]].reset_index(drop=True)
    np.testing.assert_allclose(design.at(some)[0], design.matrix[[41, 3, 77]])


def test_nested_effects_of_a_group_are_called_what_they_are():
    model = vr.glmm("y ~ x + (0 + h / x | g)", FRAME)
    assert model.latents == ("u_g_h_u", "u_g_h_v", "u_g_h_u_x", "u_g_h_v_x")

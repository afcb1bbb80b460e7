"""Methods are told from one another by all that they have, objects of a user's own among it."""

from __future__ import annotations

from pathlib import Path

import optax
import pytest

import vi_recipes as vr
from vi_recipes.cells import in_full
from vi_recipes.core import load_object

GUIDE = """
import numpyro
import numpyro.distributions as dist


def guide(y):
    m = numpyro.param("m", {start})
    numpyro.sample("mu", dist.Normal(m, 1.0))
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (vr.SVI(guide={"z": vr.Amortised(hidden=(8,))}),
         vr.SVI(guide={"z": vr.Amortised(hidden=(64,))})),
        (vr.SVI(optimizer=optax.adam(0.1)), vr.SVI(optimizer=optax.adam(0.2))),
        (vr.SVI(step_size=optax.linear_schedule(0.1, 0.0, 9)),
         vr.SVI(step_size=optax.linear_schedule(0.2, 0.0, 9))),
        (vr.SVGD(optimizer=optax.adam(0.1)), vr.SVGD(optimizer=optax.adam(0.2))),
    ],
)  # fmt: skip
def test_of_objects_with_one_name_the_marks_differ(one: vr.Method, other: vr.Method) -> None:
    assert one.objects == other.objects != []
    assert one.in_words() == other.in_words()
    assert in_full(one) == in_full(one) != in_full(other)


def test_methods_of_plain_options_have_no_mark() -> None:
    plain = [
        vr.NUTS(),
        vr.SVI(guide={"a": "normal"}, checkpoint=Path("run.npz")),
        vr.LinearResponse(base=vr.MeanField(factors={"a": "gamma"})),
    ]
    assert [in_full(method) for method in plain] == [method.in_words() for method in plain]


def test_a_function_of_a_file_is_marked_by_its_source(tmp_path: Path) -> None:
    def mark(start: float) -> str:
        file = tmp_path / "own.py"
        file.write_text(GUIDE.format(start=start))
        return in_full(vr.SVI(guide=load_object(f"{file}:guide")))

    first = mark(0.0)
    assert "its guide marked" in first
    assert mark(0.0) == first != mark(0.5)

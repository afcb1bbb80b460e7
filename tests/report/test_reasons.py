"""Reasons that are told many times over."""

from __future__ import annotations

from vi_recipes.report import alike


def test_reasons_are_gathered_and_a_long_one_ends_with_a_clause() -> None:
    long = "it failed: " + "no mode at 3.5; " * 50
    told = {"a": "no data", "b": long, "c": long.replace("3.5", "1e-7")}
    (several, said), (alone, same) = alike(told)
    assert several == ["b", "c"]
    assert said.startswith("for instance: it failed: no mode at 3.5;")
    assert said.endswith("; no mode at 3.5")
    assert (alone, same) == (["a"], "no data")

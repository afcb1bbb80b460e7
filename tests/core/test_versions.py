"""Versions are those that are installed."""

from importlib.metadata import version

from vi_recipes.core import version_of


def test_versions_are_those_that_are_installed() -> None:
    assert version_of("jax") == version("jax")
    assert version_of("no-such-package") == "none"

"""What an interrupted comparison was to fit, and has no fit of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MethodsLeft:
    """Methods that an interrupted comparison has no fit of.

    Parameters
    ----------
    names
        Theirs, as they were to be fitted.
    sure
        Whether none of them was begun: of what workers were given, and of a process that was
        killed, nobody can tell.
    """

    names: tuple[str, ...] = ()
    sure: bool = True

    @property
    def what(self) -> str:
        """What is true of each of them."""
        return "not begun" if self.sure else "not begun, or not done,"

    def said(self) -> list[str]:
        """Return a sentence on them; none where there are no such methods."""
        if not self.names:
            return []
        what = self.what[0].upper() + self.what[1:]
        return [f"{what} when the run was interrupted: {', '.join(self.names)}."]

    def without(self, names: Collection[str]) -> MethodsLeft:
        """Return those that have other names than these, of which there are fits."""
        return MethodsLeft(tuple(name for name in self.names if name not in names), self.sure)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a file holds it."""
        return {"names": list(self.names), "sure": self.sure}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> MethodsLeft:
        """Return what :meth:`to_dict` has written."""
        return cls(tuple(content["names"]), content["sure"])

"""The terms that sums, products and nestings of a formula stand for, written out one by one.

formulae shares what it knows of a column among the terms that a product or a nesting stands for,
``k / x`` or ``(a + b + c)**2``, though the terms code its levels unlike: labels and columns at new
data then go by the coding of the last. Of terms that are written one by one each has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from math import prod

from vi_recipes.formula.parse import BETWEEN, Token, TokenReader, marked, tokens_of

type Term = tuple[str, ...]
"""The columns and functions of columns that are multiplied; none for the intercept."""

COMPUTED = "what is computed stands in braces, such as {x / z} or {x > 0}"


def written_out(text: str) -> str:
    """Return terms as a sum without products, which says whether there is an intercept.

    Those of fewer factors come first, as in R, so that formulae finds the codings of all.

    Raises
    ------
    ValueError
        For what is no term; the place is marked.

    Examples
    --------
    >>> written_out("a / x - 1")
    '0 + a + a:x'
    >>> written_out("(a + b + c)**2 - b:a")
    '1 + a + b + c + a:c + b:c'
    """
    terms = sorted(_Terms(text).all(), key=len)
    first = "1" if () in terms else "0"
    return " + ".join([first, *(":".join(term) for term in terms if term)])


def is_computed(text: str) -> bool:
    """Whether something is computed in a text outside of functions and braces."""
    depth, signs = 0, [token for token in tokens_of(text) if token.kind == "sign"]
    for token in signs:
        depth += (token.text in "({[") - (token.text in ")}]")
        if depth == 0 and token.text in BETWEEN:
            return True
    return False


def _joined(terms: Iterable[Term]) -> Term:
    """Return the term that several have together; what they share is in it once."""
    return tuple({"".join(atom.split()): atom for term in terms for atom in term}.values())


def _distinct(terms: Iterable[Term]) -> list[Term]:
    """Return terms without those that are there already, in whatever order they are written."""
    found: dict[frozenset[str], Term] = {}
    for term in terms:
        found.setdefault(_key(term), term)
    return list(found.values())


def _key(term: Term) -> frozenset[str]:
    return frozenset("".join(atom.split()) for atom in term)


def _crossed(left: Sequence[Term], right: Sequence[Term]) -> list[Term]:
    return _distinct(_joined(pair) for pair in product(left, right))


def columns_of(terms: Iterable[tuple[Collection[str], int, Mapping[str, int]]]) -> int:
    """Return how many columns are needed for terms together.

    Parameters
    ----------
    terms
        Of each the names of its numbers, how many columns these make, and its categories with how
        many levels they have.
    """
    needed = {}
    for numbers, width, levels in terms:
        for size in range(len(levels) + 1):
            for chosen in combinations(levels, size):
                each = prod(levels[name] - 1 for name in chosen)
                needed[frozenset(numbers), frozenset(chosen)] = width * each
    return sum(needed.values())


class _Terms(TokenReader):
    """Reads terms; how signs bind is that of R."""

    def all(self) -> list[Term]:
        found = self.sum([()])
        if self.now.kind != "end":
            raise marked(self.text, self.now.place, f"got '{self.now.text}': {COMPUTED}")
        return found

    def sum(self, found: list[Term]) -> list[Term]:
        """Read a sum, whose terms come to those that are there."""
        while True:
            away = False
            while sign := self.take("+", "-"):
                away ^= sign.text == "-"
            if self.now.text == "0":
                self.at += 1
                away = not away
                terms: list[Term] = [()]
            else:
                terms = self.product()
            keys = {_key(term) for term in terms}
            found = [t for t in found if _key(t) not in keys] if away else [*found, *terms]
            if self.now.text not in ("+", "-"):
                return _distinct(found)

    def product(self) -> list[Term]:
        left = self.interaction()
        while sign := self.take("*", "/"):
            right = self.interaction()
            by = left if sign.text == "*" else [_joined(left)]
            left = [*left, *(right if sign.text == "*" else ()), *_crossed(by, right)]
        return _distinct(left)

    def interaction(self) -> list[Term]:
        left = self.power()
        while self.take(":"):
            left = _crossed(left, self.power())
        return left

    def power(self) -> list[Term]:
        left = self.operand()
        if sign := self.take("**"):
            times = self.now
            self.at += 1
            if len(left) < 2 or times.kind != "number" or not times.text.isdigit():
                raise marked(
                    self.text, sign.place, "a power is of a sum; that of a column is {x**2}"
                )
            once = left
            for _ in range(int(times.text) - 1):
                left = _distinct([*left, *_crossed(left, once)])
        return left

    def operand(self) -> list[Term]:
        start = self.now
        self.at += 1
        if start.text == "1" and start.kind == "number":
            return [()]
        if start.kind == "number":
            raise marked(self.text, start.place, f"a number among terms is 0 or 1; {COMPUTED}")
        if start.kind == "text":
            raise marked(self.text, start.place, "got text, expected a column")
        if start.text == "(":
            found = self.sum([])
            self.at += 1  # the parenthesis that closes: the formula was read before
            return found
        if start.text == "{" or self.now.text == "(":
            self.skip(start)
        elif self.now.text == "[":
            raise marked(
                self.text, self.now.place,
                f"a level is of a response; its indicator is {{{start.text} == 'a'}}",
            )  # fmt: skip
        return [(self.text[start.place : self.tokens[self.at - 1].end],)]

    def skip(self, start: Token) -> None:
        """Go behind the arguments of a function, or what is in braces."""
        depth = int(start.text == "{")
        while True:
            token = self.now
            self.at += 1
            if token.kind == "sign":
                depth += (token.text in "({[") - (token.text in ")}]")
            if depth == 0:
                return

"""A formula's text: its response, its common terms and its group terms, with places of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vi_recipes.core import unknown

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[^\W\d_][\w.]*)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
    |(?P<text>"[^"]*"|'[^']*')|(?P<quoted>`[^`]+`)
    |(?P<sign>\*\*|//|==|!=|<=|>=|\|\||[-+*/:()\[\]{},~|=<>%]))""",
    re.VERBOSE,
)

BETWEEN = frozenset({"+", "-", "*", "/", ":", "**", "//", "%", "==", "!=", "<=", ">=", "<", ">"})

WORDS = frozenset({"True", "False", "None", "pi"})
"""Names that stand for no column."""

CONTRASTS = frozenset({"Treatment", "Sum", "Helmert", "Polynomial"})
"""Names that stand for none behind the column of ``C``; elsewhere a column may have them."""


def column_as_written(name: str) -> str:
    """Return a column's name as a formula has it: in backquotes where it is no word.

    Examples
    --------
    >>> column_as_written("dose.mg"), column_as_written("visit date")
    ('dose.mg', '`visit date`')
    """
    token = _TOKEN.fullmatch(name)
    return name if token and token["name"] else f"`{name}`"


@dataclass(frozen=True)
class Token:
    """A word or sign of a formula, and where it begins."""

    kind: str
    text: str
    place: int

    @property
    def end(self) -> int:
        """The place behind it."""
        return self.place + len(self.text)

    @property
    def named(self) -> str:
        """What it names, such as a column, without backquotes; empty for other tokens."""
        return self.text.strip("`") if self.kind in ("name", "quoted") else ""


@dataclass(frozen=True)
class Bar:
    """A group term ``(effects | factor)``."""

    effects: str
    factor: str
    correlated: bool

    def __str__(self) -> str:
        return f"({self.effects} {'|' if self.correlated else '||'} {self.factor})"


@dataclass(frozen=True)
class Parsed:
    """A formula taken apart.

    Parameters
    ----------
    text
        As it was written.
    response
        What is left of the tilde.
    common
        The terms that are no group terms, as text that formulae reads.
    bars
        The group terms.
    names
        What may be columns, in order of appearance.
    """

    text: str
    response: str
    common: str
    bars: tuple[Bar, ...]
    names: tuple[str, ...]


CURES = {
    "^": "a power of a column is {x**2}",
    ".": "columns are written out, one by one",
    "": "a column whose name is no word stands in backquotes",
}
"""Of signs that other formulas have, and of all others."""


def marked(text: str, place: int, says: str) -> ValueError:
    """Return the error that marks a place of a formula."""
    line = text.replace("\n", " ").replace("\t", " ")
    return ValueError(f"formula: {says}:\n  {line}\n  {' ' * place}^")


def parse(text: str) -> Parsed:
    """Take a formula apart.

    Parameters
    ----------
    text
        Such as ``"y ~ x + (1 + x | g)"``.

    Raises
    ------
    ValueError
        For one that does not parse; the place is marked.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"formula: got {text!r}, expected text such as 'y ~ x + (1 | g)'")
    return _Reader(text).formula()


def tokens_of(text: str) -> list[Token]:
    """Return the words and signs of a formula, an end among them."""
    tokens, place = [], 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            what = "a quote that is not closed" if text[place] in "\"'`" else repr(text[place])
            if text[place] not in "\"'`":
                what += f"; {CURES.get(text[place], CURES[''])}"
            raise marked(text, place, f"cannot read {what}")
        kind = str(found.lastgroup)
        tokens.append(Token(kind, found.group(kind), found.start(kind)))
        place = found.end()
    return [*tokens, Token("end", "", len(text))]


class TokenReader:
    """Goes through the tokens of a text from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, tokens_of(text), 0

    @property
    def now(self) -> Token:
        """The token that is next."""
        return self.tokens[self.at]

    def take(self, *signs: str) -> Token | None:
        """Return the next token and go on, if it is one of these signs."""
        if self.now.kind == "sign" and self.now.text in signs:
            self.at += 1
            return self.tokens[self.at - 1]
        return None


class _Reader(TokenReader):
    """Reads a formula; the grammar is that of formulae, with ``||`` added."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.names: dict[str, None] = {}
        self.words = WORDS

    def wrong(self, expected: str) -> ValueError:
        got = "the end" if self.now.kind == "end" else f"'{self.now.text}'"
        return marked(self.text, self.now.place, f"got {got}, expected {expected}")

    def formula(self) -> Parsed:
        if self.now.text == "~":
            raise self.wrong("the response before '~'")
        self.expression()
        if not self.take("~"):
            barred = self.now.text == "|"
            aside = " (weights go into weights=, trials into p(y, n))" if barred else ""
            raise self.wrong(f"'~' after the response{aside}")
        response = self.text[: self.tokens[self.at - 1].place].strip()
        pieces, bars = [], []
        sign = self.take("-", "+")
        while True:
            start = self.now
            bar = self.bar()
            if bar is None:
                self.product()
                pieces.append((sign.text if sign else "+", self.since(start)))
            elif sign and sign.text == "-":
                raise marked(self.text, sign.place, "a group term is added, not taken away")
            elif self.now.kind == "sign" and self.now.text not in ("+", "-"):
                raise self.wrong("'+' after a group term")
            else:
                bars.append(bar)
            sign = self.take("+", "-")
            if sign is None:
                break
        if self.now.text in ("|", "||"):
            raise self.wrong("group terms in parentheses, such as (1 | g)")
        if self.now.kind != "end":
            raise self.wrong("'+' and another term, or the end")
        common = " ".join(f"{s} {piece}" for s, piece in pieces).removeprefix("+ ")
        return Parsed(self.text, response, common or "1", tuple(bars), tuple(self.names))

    def since(self, start: Token) -> str:
        return self.text[start.place : self.tokens[self.at - 1].end]

    def bar(self) -> Bar | None:
        """Read a group term, if one begins here."""
        depth = 0
        for token in self.tokens[self.at :]:
            depth += (token.text == "(") - (token.text == ")") if token.kind == "sign" else 0
            if depth == 0:
                return None
            if depth == 1 and token.kind == "sign" and token.text in ("|", "||"):
                break
        else:
            return None
        self.take("(")
        start = self.now
        self.expression()
        effects = self.since(start)
        pipe = self.take("|", "||")
        if pipe is None:
            raise self.wrong("'|' after the effects of a group term")
        start = self.now
        self.factor()
        factor = self.since(start)
        if not self.take(")"):
            raise self.wrong("')' after the factor, which is a column, a:b or a/b")
        return Bar(effects, factor, pipe.text == "|")

    def factor(self) -> None:
        while True:
            if not self.now.named:
                raise self.wrong("the column whose values are the groups")
            self.names[self.now.named] = None
            self.at += 1
            if not self.take(":", "/"):
                return

    def expression(self) -> None:
        """Read what stands between signs of any kind but the tilde and the bars."""
        self.operand()
        while self.take(*BETWEEN):
            self.operand()

    def product(self) -> None:
        """Read an expression up to the next sum."""
        self.operand()
        while self.take(*(BETWEEN - {"+", "-"})):
            self.operand()

    def operand(self) -> None:
        while self.take("+", "-"):
            pass
        token = self.now
        if token.kind == "end" or (token.kind == "sign" and token.text not in ("(", "{")):
            raise self.wrong("a term: a column, a number, a function of columns")
        self.at += 1
        if token.kind == "sign":
            self.expression()
            closing = {"(": ")", "{": "}"}[token.text]
            if self.now.text in ("|", "||"):
                raise self.wrong("group terms that are added to others, such as x + (1 | g)")
            if not self.take(closing):
                raise self.wrong(f"'{closing}'")
        elif token.kind == "name" and self.now.text == "(":
            self.arguments(coded=token.text == "C")
        elif token.named:
            if token.kind == "quoted" or token.named not in self.words:
                self.names[token.named] = None
            if self.take("["):
                if self.now.kind not in ("name", "text"):
                    raise self.wrong("a level")
                self.at += 1
                if not self.take("]"):
                    raise self.wrong("']'")

    def arguments(self, *, coded: bool) -> None:
        self.take("(")
        if self.take(")"):
            return
        before = self.words
        while True:
            if self.now.kind == "name" and self.tokens[self.at + 1].text == "=":
                self.at += 2
            self.expression()
            if coded:
                self.words = WORDS | CONTRASTS
            if self.take(")"):
                self.words = before
                return
            if not self.take(","):
                raise self.wrong("',' or ')'")


def check_columns(parsed: Parsed, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that a formula uses.

    Raises
    ------
    ValueError
        For a name that is no column: the closest names are in it, and the place is marked. And
        for a column with the name of the intercept, in whose place formulae would put it.
    """
    known = list(columns)
    for name in parsed.names:
        if name == "Intercept" and name in known:
            raise ValueError(
                f"formula '{parsed.text}': column 'Intercept' has the name of the intercept; "
                "rename it"
            )
        if name not in known:
            place = next(t.place for t in tokens_of(parsed.text) if t.named == name)
            raise marked(parsed.text, place, unknown("column", name, known))
    return parsed.names


def check_apart(parsed: Parsed) -> None:
    """Refuse a response that is among its own terms.

    Raises
    ------
    ValueError
        With its name.
    """
    terms = tokens_of(parsed.text.partition("~")[2])
    own = parsed.response.strip("`")
    if any(t.named == own for t in terms):
        raise ValueError(
            f"formula '{parsed.text}': the response '{own}' is among its own terms; leave it out"
        )


def factors_of(bar: Bar) -> list[tuple[str, ...]]:
    """Return the columns of every grouping factor: ``a/b`` is ``a`` and ``a:b``."""
    columns: list[tuple[str, ...]] = [()]
    for token in tokens_of(bar.factor):
        if token.text == "/" and token.kind == "sign":
            columns.append(columns[-1])
        elif token.named:
            columns[-1] = (*columns[-1], token.named)
    return columns

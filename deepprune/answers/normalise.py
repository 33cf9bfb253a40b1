r"""Parse an answer into parts, plain numbers and words.

Standard library only. ``compare`` compares the results; the worker handles whatever is neither a
plain number nor text.

Rules, following the graders of MATH where they agree:

* Units, currency, degrees and percent signs are dropped: ``5 cm``, ``\$5`` and ``5`` are the same,
  and so are ``50\%`` and ``50``. So ``50\%`` and ``0.5`` differ: otherwise 50 and 0.5 would fall
  into one class.
* ``10,000``, ``10{,}000`` and ``10\,000`` are one number; in brackets, ``(100,200)`` is a pair.
* Order does not matter in comma lists and sets. In tuples and intervals it does, and so do the
  brackets.
* Words are compared ignoring case; single letters, two capitals and formulas with it.
* A unit follows a space, or is one of two letters and more: ``5 m`` and ``5cm`` are 5, ``5m`` is
  a product. Units are dropped, not compared: ``5 cm`` and ``5 m`` are the same.
* ``3:2`` is 3/2. Dates (05/01/2021), times (2:30) and numerals with a base (``101_2``) are text.
* The name of a value counts if both have one: ``x=3`` is 3 but not ``y=3``, and 7 modulo 12 is 7
  but not 7 modulo 10. ``m=1, n=2`` is ``(1, 2)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from deepprune.answers.notation import (
    NUMBER_WORDS,
    canonical,
    has_letters,
    outer_brackets,
    split,
    tight,
)
from deepprune.answers.quantities import plain_number, strip_units

MAX_LENGTH = 2000
"""Longer answers are only compared as strings."""


class Kind(StrEnum):
    """Kind of an answer or of one of its parts."""

    NUMBER = "number"
    TEXT = "text"
    MATH = "math"  # an expression that only the worker can compare
    RELATION = "relation"  # an equation or an inequality, compared by the worker too
    LIST = "list"  # 1, 2
    SET = "set"  # {1, 2}
    UNION = "union"  # (0, 1) \cup (2, 3)
    BRACKETS = "brackets"  # a tuple, point or interval


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer.

    Attributes:
        kind: Decides which of the other fields are set.
        text: Canonical string; equal strings are the same answer.
        number: The value of a number.
        is_decimal: Whether the number was written with a decimal point.
        brackets: Opening and closing bracket of ``BRACKETS``.
        parts: Elements of a list, set, union or bracket.
        name: ``x`` in ``x = 5``; ``""`` without an assignment.
    """

    kind: Kind
    text: str
    number: Fraction | None = None
    is_decimal: bool = False
    brackets: str = ""
    parts: tuple[Answer, ...] = ()
    name: str = ""

    @property
    def named_text(self) -> str:
        """``x=5`` where the value was assigned to a name, else the text."""
        return f"{self.name}={self.text}" if self.name else self.text


_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_SIMPLE_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+(?: ?[A-Za-z])?|\\[A-Za-z]+\{[A-Za-z]+\})(?:_?\{?\w+\}?)?"
    r"(?:\([A-Za-z]\))?|\([A-Za-z, ]+\)|\|?[A-Z]{2,}\|?(?:\^\{?\d\}?)?|m?\\angle ?[A-Z]+"
)
_MEMBER = re.compile(r"^[A-Za-z] *\\in(?![A-Za-z])")
_RELATION = re.compile(r"=|<|>|\\leq|\\geq|\\neq|\\[lg]t(?![A-Za-z])")
_PLAIN_WORDS = re.compile(r"[A-Za-z][A-Za-z'\u2019 .?!-]*")
_LONG_WORD = re.compile(r"[A-Za-z]{3}")
_WORD_IN_MATH = re.compile(r"(?<![\\A-Za-z])(?!sqrt)[A-Za-z]{4,}(?!\w*\})")
_TEXT_NUMBER = re.compile(  # dates, times, 10110_2, 5 pm, 2 hours 30 minutes
    r"\d+(?:[/:.-]\d+){2,}|-?\d+(?::\d+){2,}.*|-?\d+:[0-5]\d.*|\d[\dA-Fa-f]*_\{?\d+\}?"
    r"|\d+ ?[ap]\.?m\.?.*|\d+ [a-z]{3,} ?,? ?\d+ [a-z]{3,}"
)
_NO_SOLUTION = re.compile(
    r"none|(?:there (?:is|are) )?no (?:real |integer )?(?:solutions?|roots?)(?: exists?)?|empty set"
)
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_DATE = re.compile(rf"(\d{{1,2}}) ({_MONTHS})|({_MONTHS}) (\d{{1,2}})(?:, (\d{{4}}))?")
_CONGRUENCE = re.compile(
    r"(.+?) ?\\equiv ?(.+?) ?\(?(?:\\[pb]?mod|mod|\\text\{ ?mod ?\}) ?(.+?)\)?"
)
_ANGLE = re.compile(
    r"(?<=\\(?:sin|cos|tan|cot|sec|csc|cis)) ?\(?(\d+(?:\.\d+)?) ?\^ ?\{?\\circ\}?\)?"
)
_SUBSCRIPT = re.compile(r"_\{?\d+\}?$")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")


@lru_cache(maxsize=8192)
def parse_answer(answer: str) -> Answer:
    """Parse an answer in linear time; never raises."""
    if len(answer) > MAX_LENGTH:
        return Answer(Kind.TEXT, " ".join(answer.split()))
    return _parse(canonical(answer))


def _parse(text: str, depth: int = 0) -> Answer:
    text = text.strip().rstrip(".;, ").lstrip(";, ")
    if depth > 20:
        return Answer(Kind.TEXT, text)
    if whole := _TEXT.fullmatch(text):  # \text{Monday}, \text{C}, \text{5}
        text = whole[1].strip().rstrip(".")
    text = re.sub(
        r"^\\text\{ ?(?:Option|Choice) ([A-J])\}$|^(?:Option|Choice) ([A-J])$", r"\1\2", text
    )
    text = _join_thousands(text)
    if _DATE.fullmatch(text.lower()):
        return Answer(Kind.TEXT, _squeeze(text))
    if _TEXT_NUMBER.fullmatch(text):
        return Answer(Kind.TEXT, _squeeze(tight(text)))
    if (words := _words(text)) is not None:
        return words
    if whole and "," not in text and text[:1].isalpha():  # \text{June 5}
        return Answer(Kind.TEXT, _squeeze(text))
    if _MEMBER.match(text):
        text = _MEMBER.sub("", text).strip()
    parts = split(text, ",;")
    if len(parts) > 1:
        return _group(Kind.LIST, parts, depth)
    if congruence := _CONGRUENCE.fullmatch(text):
        name = tight(f"{congruence[1]}mod{congruence[3]}")
        return replace(_parse(congruence[2], depth + 1), name=name)
    if (assigned := _assignment(text, depth)) is not None:
        return assigned
    pieces = split(text.replace("\\cup", "\0"), "\0")
    if len(pieces) > 1:
        return _group(Kind.UNION, pieces, depth)
    if outer := outer_brackets(text):
        opening, closing, inside = outer
        parts = split(inside, ",;")
        if opening == "\\{":
            return _group(Kind.SET, parts, depth) if inside.strip() else _atom("\\emptyset", depth)
        if len(parts) > 1:
            return _group(Kind.BRACKETS, parts, depth, opening + closing)
        if opening + closing == "()":
            return _parse(inside, depth + 1)
    return _atom(text, depth)


def _group(kind: Kind, parts: list[str], depth: int, brackets: str = "") -> Answer:
    parsed = tuple(_parse(part, depth + 1) for part in parts if part.strip())
    if kind is Kind.LIST:  # \pm 1, \pm 7 are four values
        parsed = tuple(
            value
            for part in parsed
            for value in (part.parts if part.kind is kind and not part.name else (part,))
        )
    names = {_SUBSCRIPT.sub("", part.name) for part in parsed}
    if len(names) == 1 and all(_SUBSCRIPT.search(part.name) for part in parsed):
        parsed = tuple(replace(part, name=min(names)) for part in parsed)  # roots x_1 and x_2
    if kind in (Kind.LIST, Kind.SET) and len(parsed) == 1:
        return parsed[0]
    opening, closing = {Kind.SET: ("\\{", "\\}"), Kind.BRACKETS: (brackets[:1], brackets[1:])}.get(
        kind, ("", "")
    )
    glue = "\\cup " if kind is Kind.UNION else ","
    text = opening + glue.join(part.named_text for part in parsed) + closing
    return Answer(kind, text, parts=parsed, brackets=brackets)


def _words(text: str) -> Answer | None:
    """Parse words or a single letter as text."""
    if len(text) == 3 and text[0] + text[2] == "()" and text[1].isalpha():
        text = text[1]
    if not _PLAIN_WORDS.fullmatch(text):
        return None
    if text == "e":
        return Answer(Kind.MATH, text)
    if text.lower() in NUMBER_WORDS:
        value = Fraction(NUMBER_WORDS[text.lower()])
        return Answer(Kind.NUMBER, str(value), number=value)
    if re.fullmatch(r"[A-Z]{2}", text) and text not in ("NO", "OK"):
        return Answer(Kind.TEXT, text)  # the segment AB
    if len(text) > 1 and text.lower() != "no" and not _LONG_WORD.search(text):
        return None
    return Answer(Kind.TEXT, text if len(text) == 1 else _squeeze(text))


def _squeeze(text: str) -> str:
    """Lower-case ``text`` and separate its words by single spaces."""
    words = " ".join(_TEXT.sub(r" \1 ", text).lower().split()).rstrip(".!?")
    words = re.sub(r"(?<=\d) ?([ap])\.? ?m\b", r"\1m", words)
    if date := _DATE.fullmatch(words):
        return " ".join(part for part in (date[2] or date[3], date[1] or date[4], date[5]) if part)
    return "no solution" if _NO_SOLUTION.fullmatch(words) else words


def _assignment(text: str, depth: int) -> Answer | None:
    """Parse ``x = 5`` and ``3 + 2 = 5`` as the value 5, the former with its name."""
    if "=" not in text or re.search(r"<|>|\\[lgn]eq", text):
        return None
    sides = split(text, "=")
    if len(sides) < 2 or not all(side.strip() for side in sides):
        return None
    if len(sides) == 2 and not has_letters(sides[0]):
        sides.reverse()  # 5 = x
        if not has_letters(sides[0]):
            return _parse(sides[0], depth + 1)  # 3 + 2 = 5
    name = tight(sides[0])
    is_name = _SIMPLE_NAME.fullmatch(name) is not None
    if not is_name and len(sides) == 2:
        return None
    value = _parse(sides[-1], depth + 1)
    if value.name:
        return None
    names = name.strip("()").split(",")
    if value.kind is Kind.BRACKETS and len(names) == len(value.parts) > 1:  # (m, n) = (1, 2)
        parts = tuple(replace(v, name=n) for n, v in zip(names, value.parts, strict=True))
        return Answer(Kind.LIST, ",".join(part.named_text for part in parts), parts=parts)
    return replace(value, name=name) if has_letters(name) else value


def _atom(text: str, depth: int) -> Answer:
    if re.search(r"\\pm(?![A-Za-z])", text):
        signs = (("\\pm", "+", "\\mp", "-"), ("\\pm", "-", "\\mp", "+"))
        both = [text.replace(a, b).replace(c, d) for a, b, c, d in signs]
        return _group(Kind.LIST, [sign.removeprefix("+") for sign in both], depth)
    text = strip_units(text.removeprefix("\\approx").strip())
    if text in ("\\emptyset", "\\{\\}"):
        return Answer(Kind.TEXT, "no solution")
    if number := plain_number(text):
        value, is_decimal = number
        return Answer(Kind.NUMBER, str(value), number=value, is_decimal=is_decimal)
    if "\\text{" in text or _TEXT_NUMBER.fullmatch(text) or re.fullmatch(r"[\d ]+", text):
        return Answer(Kind.TEXT, _squeeze(text))
    if (words := _words(text)) is not None:
        return words
    if _WORD_IN_MATH.search(text):  # 5 million, 10 p.m. on Friday
        return Answer(Kind.TEXT, _squeeze(text))
    text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"\\cis ?(.+)$", r"e^{i\1}", text)
    outside = re.sub(r"_\{[^{}]*\}", "", text)  # not the k = 1 below a sum
    kind = Kind.RELATION if _RELATION.search(outside) else Kind.MATH
    return Answer(kind, tight(text))


def _join_thousands(text: str) -> str:
    """Remove the commas of ``10,000`` and the cents of ``72,00``, except in brackets."""
    if "," not in text or re.search(r"[(\[]|\\\{", text):
        return text
    text = re.sub(r"^(\d+),00$", r"\1", text)
    return _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)

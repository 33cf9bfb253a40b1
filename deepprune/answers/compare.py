"""Compare two parsed answers; the caller supplies the function that does the algebra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from deepprune.answers.normalise import Answer, Kind

TOLERANCE = "1e-6"
"""Largest relative error, as a decimal string, of a decimal that stands for an exact value:
0.333333 is 1/3."""

SameMath = Callable[[Answer, Answer], bool]
"""Compares two answers of which at least one needs algebra."""

_VALUES = (Kind.NUMBER, Kind.TEXT, Kind.MATH, Kind.RELATION)
_MANY = (Kind.LIST, Kind.SET, Kind.UNION)
_ALGEBRA = (Kind.MATH, Kind.RELATION)


def same_answer(a: Answer, b: Answer, same_math: SameMath) -> bool:
    """Return whether ``a`` and ``b`` are the same answer.

    Lists, sets and unions are compared as multisets, and a set may equal a list; tuples and
    intervals need the same brackets and the same order. Decimals are exact (0.33 is not 0.333),
    except that a decimal equals a fraction or an expression within ``TOLERANCE``.
    """
    if a.name and b.name and a.name != b.name:  # y = x is x = y
        return all(x.kind in (Kind.MATH, Kind.TEXT) for x in (a, b)) and same_math(a, b)
    if a.text and a.text == b.text and a.kind == b.kind and a.brackets == b.brackets:
        return True
    if a.kind is Kind.NUMBER and b.kind is Kind.NUMBER:
        return _same_number(a, b)
    if a.kind in _VALUES and b.kind in _VALUES:
        return _may_be_algebra(a, b) and same_math(a, b)
    if a.kind is Kind.BRACKETS and b.kind is Kind.BRACKETS:
        return (
            a.brackets == b.brackets
            and len(a.parts) == len(b.parts)
            and all(same_answer(p, q, same_math) for p, q in zip(a.parts, b.parts, strict=True))
        )
    if _is_solution_set(a) or _is_solution_set(b):  # 1 < x < 2 may equal (1, 2)
        both_lists = a.kind is Kind.LIST and b.kind is Kind.LIST
        return (both_lists and _same_multiset(a.parts, b.parts, same_math)) or same_math(a, b)
    if {a.kind, b.kind} == {Kind.LIST, Kind.BRACKETS}:  # m = 1, n = 2 is (1, 2)
        names, point = (a, b) if a.kind is Kind.LIST else (b, a)
        return (
            len({part.name for part in names.parts} - {""}) == len(names.parts) == len(point.parts)
            and point.brackets == "()"
            and all(
                same_answer(p, q, same_math) for p, q in zip(names.parts, point.parts, strict=True)
            )
        )
    if {a.kind, b.kind} <= {Kind.MATH, Kind.BRACKETS, Kind.UNION} and a.kind != b.kind:
        return same_math(a, b)
    if Kind.UNION in (a.kind, b.kind) and a.kind != b.kind:
        return False
    if a.kind not in _MANY and b.kind not in _MANY:
        return False
    return _same_multiset(_parts(a), _parts(b), same_math)


def _is_solution_set(answer: Answer) -> bool:
    return answer.kind is Kind.RELATION or (
        answer.kind is Kind.LIST and any(part.kind is Kind.RELATION for part in answer.parts)
    )


def _may_be_algebra(a: Answer, b: Answer) -> bool:
    """Return whether one is an expression and neither is words; a letter may be a variable."""
    return any(x.kind in _ALGEBRA for x in (a, b)) and not any(
        x.kind is Kind.TEXT and len(x.text) > 1 for x in (a, b)
    )


def _same_number(a: Answer, b: Answer) -> bool:
    x, y = a.number, b.number
    assert x is not None
    assert y is not None
    if x == y:
        return True
    if a.is_decimal == b.is_decimal:
        return False
    fraction = y if a.is_decimal else x
    return fraction.denominator > 1 and abs(x - y) <= Fraction(TOLERANCE) * abs(fraction)


def _parts(answer: Answer) -> Sequence[Answer]:
    return answer.parts if answer.kind in _MANY else (answer,)


def _same_multiset(xs: Sequence[Answer], ys: Sequence[Answer], same_math: SameMath) -> bool:
    if len(xs) != len(ys):
        return False
    left = list(ys)
    for x in xs:
        for i, y in enumerate(left):
            if same_answer(x, y, same_math):
                del left[i]
                break
        else:
            return False
    return True

"""Worker process for algebra on untrusted answers: ``python -m deepprune.answers.worker``.

Reads JSON lines ``{"limit_s": float, "pairs": [[a, b], ...]}`` from standard input until it ends
and writes one line per pair to standard output: ``1`` the same, ``0`` not. With null for ``b`` it
evaluates ``a`` alone. The parent kills the worker when a line is late. If the parent no longer
exists, an unhandled alarm signal ends the process (a thread could not: computing one huge power
holds the interpreter lock).
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, TextIO

import sympy  # type: ignore[import-untyped]
from latex2sympy2_extended import latex2sympy, normalize_latex  # type: ignore[import-untyped]
from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, verify
from sympy.core.relational import Relational  # type: ignore[import-untyped]

from deepprune.answers.compare import TOLERANCE, same_answer
from deepprune.answers.normalise import Answer, Kind, parse_answer

MEMORY_BYTES = 2 << 30
_DIGITS = 40
_EXACT = sympy.Float("1e-25", _DIGITS)  # relative error of two evaluations of one exact value
_DECIMAL = sympy.Float(TOLERANCE, _DIGITS)
_TINY = sympy.Float("1e-30", _DIGITS)
_NORMALIZATION = replace(LatexExtractionConfig().normalization_config, units=False)
_CASE_MATTERS = ConversionConfig(lowercase_symbols=False)
_KINKED = (sympy.Abs, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.sign, sympy.Mod)
_INEQUALITIES = {">": "<", ">=": "<=", "<": "<", "<=": "<="}


def main() -> None:
    """Serve comparisons until standard input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print is not a reply
    _limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable(logging.CRITICAL)
    same_untrusted("2x", "x+x")  # the parser's tables are built on first use, for up to a second
    print("ready", file=replies, flush=True)
    _serve(sys.stdin, replies)


def _serve(requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        request = json.loads(line)
        for a, b in request["pairs"]:
            signal.setitimer(signal.ITIMER_REAL, 2 * request["limit_s"] + 1)
            same = b is not None and same_untrusted(a, b)
            if b is None:
                evaluate(a)
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(int(same), file=replies, flush=True)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def same_untrusted(a: str, b: str) -> bool:
    """Return whether two answers are the same; False if the algebra fails."""
    try:
        return same_answer(parse_answer(a), parse_answer(b), same_math)
    except Exception:  # sympy raises nearly any type; also MemoryError, RecursionError
        return False


def evaluate(answer: str) -> None:
    """Do the algebra that any comparison with an answer needs: parse and evaluate each part."""
    with suppress(Exception):
        parts = [parse_answer(answer)]
        for part in parts:
            parts += part.parts
            if part.text:
                same_math(part, parse_answer("q"))


def same_math(a: Answer, b: Answer) -> bool:
    """Compare two answers of which at least one is an expression, a relation or a set."""
    has_names = bool(a.name and b.name and a.name != b.name)
    if has_names or Kind.RELATION in (a.kind, b.kind):
        return _same_relation(a, b)
    if a.parts or b.parts:
        return _same_set(a, b)
    return _same_value(_expression(a), _expression(b))


@lru_cache(maxsize=4096)
def _parse(latex: str) -> Any:
    """Return the expression of a formula, ``None`` if math-verify's parser refuses it.

    ``math_verify.parse`` itself turns ``R`` into ``r`` and ``2m`` into ``2``.
    """
    with suppress(Exception):  # the parser raises nearly any type
        return latex2sympy(
            normalize_latex(latex, _NORMALIZATION),
            is_real=True,
            normalization_config=None,
            conversion_config=_CASE_MATTERS,
        )
    return None


def _expression(answer: Answer) -> Any:
    if answer.number is not None:
        value = sympy.Rational(answer.number.numerator, answer.number.denominator)
        return sympy.Float(str(sympy.N(value, 30)), 30) if answer.is_decimal else value
    return _parse(answer.text)


def _same_value(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return a.shape == b.shape and all(
            _same_value(x, y) for x, y in zip(a.flat(), b.flat(), strict=True)
        )
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return _same_numerically(a, b)
    return _verify(a, b)


def _verify(gold: Any, target: Any) -> bool:
    return bool(verify(gold, target, timeout_seconds=None))


def _same_numerically(a: Any, b: Any) -> bool:
    r"""Return whether two expressions agree at all points where both are defined and real.

    Stricter than math-verify, which rounds to six decimal places and so equates 0.000067 with
    0.0000672, and much faster than ``simplify``. Expressions without a finite value are left to
    math-verify. Where one has a kink, as ``|x|``, the other must be real at the same points too:
    ``\ln|x|`` is not ``\ln x``, but ``\ln x^2`` is ``2\ln x``.
    """
    if a == b:
        return True
    has_decimal = [bool(x.atoms(sympy.Float)) for x in (a, b)]
    tolerance = _DECIMAL if has_decimal[0] != has_decimal[1] else _EXACT
    a, b = _exact(a), _exact(b)
    is_kinked = a.has(*_KINKED) or b.has(*_KINKED)
    complex_too: list[bool] = []
    is_decided = False
    for point in _points([a, b]):
        x, y = (e.subs(point).evalf(_DIGITS) for e in (a, b))
        if not (x.is_number and y.is_number):
            return _verify(a, b)
        if not (x.is_finite and y.is_finite):
            continue
        size = max(abs(x), abs(y))
        agree = bool(
            x == y or sympy.simplify(a - b) == 0 if size < _TINY else abs(x - y) <= tolerance * size
        )
        if x.is_real and y.is_real:
            is_decided = True
        elif not (is_kinked and (x.is_real or y.is_real)):
            complex_too.append(agree)
            continue
        if not agree:
            return False
    if is_decided and not (a.has(sympy.I) or b.has(sympy.I)):
        return True
    return all(complex_too) if is_decided or complex_too else _verify(a, b)


def _points(expressions: Iterable[Any]) -> Iterator[dict[Any, Any]]:
    r"""Yield values of the symbols: small and positive, of mixed sign and order, whole, large.

    ``\max(a, b)`` is ``b`` where a < b, and ``\lceil n/3 \rceil`` is 1 up to n = 3.
    """
    expressions = list(expressions)
    symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
    if not symbols:
        yield {}
        return
    for k in range(3):
        yield {s: sympy.Rational(17 * k + 7 * i + 5, 11 + 2 * k) for i, s in enumerate(symbols)}
    draw = random.Random(0)
    rounds = 8 if any(e.has(*_KINKED) for e in expressions) else 2
    for limit, divisor in ((60, 7), (5, 1), (9999, 7)) * rounds:
        yield {s: sympy.Rational(draw.randint(-limit, limit), divisor) for s in symbols}


def _exact(expression: Any) -> Any:
    """Replace decimals by exact fractions and ``i`` by the imaginary unit."""
    decimals = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    units = {s: sympy.I for s in expression.free_symbols if s.name == "i"}
    exact = expression.xreplace({**decimals, **units})
    return exact.doit() if exact.has(sympy.Sum, sympy.Product) else exact


def _same_relation(a: Answer, b: Answer) -> bool:
    xs, ys = (_chain(_parse(answer.named_text)) for answer in (a, b))
    if xs and len(xs) == len(ys) and all(any(_same_link(p, q) for q in ys) for p in xs):
        return True
    return not (a.name and b.name) and _same_set(a, b)


def _chain(relation: Any) -> list[Any]:
    """Return the relations of ``1 < x <= 2``; empty if ``relation`` is not one."""
    links = getattr(relation, "_unsorted_args", ()) or getattr(relation, "args", ())
    links = (relation,) if isinstance(relation, Relational) else links
    are_relations = all(isinstance(x, Relational) and isinstance(x.rhs, sympy.Expr) for x in links)
    return list(links) if are_relations else []


def _same_set(a: Answer, b: Answer) -> bool:
    x, y = _solutions(a), _solutions(b)
    if x is None or y is None or len(_unknowns(a) | _unknowns(b)) > 1:
        return False
    return bool(x == y or x.symmetric_difference(y) is sympy.S.EmptySet)


def _unknowns(answer: Answer) -> set[Any]:
    """Return the symbols of an answer's relations."""
    links = _chain(_parse(answer.named_text)) if answer.kind is Kind.RELATION else []
    return set().union(*(link.free_symbols for link in links), *map(_unknowns, answer.parts))


def _solutions(answer: Answer) -> Any:
    """Return the set of reals that an answer describes, ``None`` if it is none.

    A list of inequalities is their intersection or, where that is empty, their union:
    ``x < 1`` or ``x > 2``.
    """
    if answer.kind is Kind.BRACKETS and len(answer.parts) == 2:
        ends = [_expression(part) for part in answer.parts]
        if not all(isinstance(end, sympy.Expr) and end.is_extended_real for end in ends):
            return None
        return sympy.Interval(*ends, "(" in answer.brackets, ")" in answer.brackets)
    if answer.kind is Kind.RELATION:
        links = _chain(_parse(answer.named_text))
        is_solvable = links and len(_unknowns(answer)) == 1
        return sympy.And(*map(_exact, links)).as_set() if is_solvable else None
    if answer.parts and answer.kind is not Kind.BRACKETS:
        sets = [_solutions(part) for part in answer.parts]
        if any(each is None for each in sets):
            return None
        if answer.kind is Kind.LIST and any(p.kind is Kind.RELATION for p in answer.parts):
            common = sympy.Intersection(*sets)
            return common if common is not sympy.S.EmptySet else sympy.Union(*sets)
        return sympy.Union(*sets)
    value = _expression(answer)
    if isinstance(value, sympy.Expr):
        return sympy.FiniteSet(_exact(value)) if value.is_number else None
    return value if isinstance(value, sympy.Set) else None


def _same_link(a: Any, b: Any) -> bool:
    """Return whether ``a.lhs - a.rhs`` is a multiple of ``b``'s, positive for inequalities."""
    (f, f_op), (g, g_op) = _one_side(a), _one_side(b)
    if f_op != g_op:
        return False
    if f.free_symbols != g.free_symbols or not f.free_symbols:
        return bool(f == g)
    f, g = _exact(f), _exact(g)
    ratios = []
    for point in _points([f, g]):
        x, y = (e.subs(point).evalf(_DIGITS) for e in (f, g))
        if not (x.is_real and y.is_real) or max(abs(x), abs(y)) < _TINY:
            continue
        if min(abs(x), abs(y)) < _TINY:
            return False
        ratios.append(x / y)
    if len(ratios) < 2:
        return bool(f == g)
    spread = max(abs(r - ratios[0]) for r in ratios)
    return bool(spread <= _EXACT * abs(ratios[0]) and (f_op in ("==", "!=") or ratios[0] > 0))


def _one_side(relation: Any) -> tuple[Any, str]:
    """Return ``lhs - rhs`` and the operator, with ``>`` turned into ``<``."""
    difference, operator = relation.lhs - relation.rhs, relation.rel_op
    if operator in (">", ">="):
        difference = -difference
    return difference, _INEQUALITIES.get(operator, operator)


if __name__ == "__main__":
    main()

"""Worker process for algebra on untrusted answers: ``python -m deepprune.answers.worker``.

Reads JSON lines ``{"limit_s": float, "pairs": [[a, b], ...]}`` from standard input until it ends
and writes one line per pair to standard output: ``1`` the same, ``0`` not. The parent kills the
worker when a line is late. If the parent no longer exists, an unhandled alarm signal ends the
process (a thread could not: computing one huge power holds the interpreter lock).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO

import sympy  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.relational import Relational  # type: ignore[import-untyped]

from deepprune.answers.compare import TOLERANCE, same_answer
from deepprune.answers.normalise import Answer, Kind, parse_answer

MEMORY_BYTES = 2 << 30
_DIGITS = 40
_EXACT = sympy.Float("1e-25", _DIGITS)  # relative error of two evaluations of one exact value
_DECIMAL = sympy.Float(TOLERANCE, _DIGITS)
_TINY = sympy.Float("1e-30", _DIGITS)
_INEQUALITIES = {">": "<", ">=": "<=", "<": "<", "<=": "<="}


def main() -> None:
    """Serve comparisons until standard input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print is not a reply
    _limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable(logging.CRITICAL)
    print("ready", file=replies, flush=True)
    _serve(sys.stdin, replies)


def _serve(requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        request = json.loads(line)
        for a, b in request["pairs"]:
            signal.setitimer(signal.ITIMER_REAL, 2 * request["limit_s"] + 1)
            same = same_untrusted(a, b)
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


def same_math(a: Answer, b: Answer) -> bool:
    """Compare two answers of which at least one is an expression, a relation or a set."""
    if Kind.RELATION in (a.kind, b.kind):
        return _same_relation(a, b)
    return _same_value(_expression(a), _expression(b))


@lru_cache(maxsize=4096)
def _parse(latex: str) -> Any:
    """Return the expression of a formula, ``None`` if math-verify cannot parse it."""
    found = parse(
        f"${latex}$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found[0] if found else None


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
    """Return whether two expressions agree at three points in general position.

    Stricter than math-verify, which rounds to six decimal places and so equates 0.000067 with
    0.0000672, and much faster than ``simplify``. Expressions without a finite value are left to
    math-verify.
    """
    if a == b:
        return True
    has_decimal = [bool(x.atoms(sympy.Float)) for x in (a, b)]
    tolerance = _DECIMAL if has_decimal[0] != has_decimal[1] else _EXACT
    a, b = _exact(a), _exact(b)
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for k in range(3 if symbols else 1):
        point = {s: sympy.Rational(17 * k + 7 * i + 5, 11 + 2 * k) for i, s in enumerate(symbols)}
        x, y = (e.subs(point).evalf(_DIGITS) for e in (a, b))
        if not (x.is_number and y.is_number) or not (x.is_finite and y.is_finite):
            return _verify(a, b)
        size = max(abs(x), abs(y))
        if size < _TINY and x != y and sympy.simplify(a - b) != 0:
            return False
        if size >= _TINY and abs(x - y) > tolerance * size:
            return False
    return True


def _exact(expression: Any) -> Any:
    """Replace decimals by exact fractions and ``i`` by the imaginary unit."""
    decimals = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    units = {s: sympy.I for s in expression.free_symbols if s.name == "i"}
    return expression.xreplace({**decimals, **units})


def _same_relation(a: Answer, b: Answer) -> bool:
    x, y = (_parse(answer.named_text) for answer in (a, b))
    if x is None or y is None:
        return False
    xs, ys = _chain(x), _chain(y)
    if xs and ys:
        return len(xs) == len(ys) and all(any(_same_link(p, q) for q in ys) for p in xs)
    gold, target = (x, y) if xs else (y, x)  # math-verify turns only its first argument into a set
    return bool(xs or ys) and isinstance(target, sympy.Set) and _verify(gold, target)


def _chain(relation: Any) -> list[Any]:
    """Return the relations of ``1 < x <= 2``; empty if ``relation`` is not one."""
    if isinstance(relation, Relational):
        return [relation]
    links = getattr(relation, "_unsorted_args", ()) or getattr(relation, "args", ())
    return list(links) if all(isinstance(link, Relational) for link in links) else []


def _same_link(a: Any, b: Any) -> bool:
    """Return whether ``a.lhs - a.rhs`` is a multiple of ``b``'s, positive for inequalities."""
    (f, f_op), (g, g_op) = _one_side(a), _one_side(b)
    if f_op != g_op:
        return False
    symbols = sorted(f.free_symbols | g.free_symbols, key=str)
    if f.free_symbols != g.free_symbols or not symbols:
        return bool(f == g)
    ratios = []
    for k in range(3):
        point = {s: sympy.Rational(17 * k + 7 * i + 5, 11 + 2 * k) for i, s in enumerate(symbols)}
        x, y = (_exact(e).subs(point).evalf(_DIGITS) for e in (f, g))
        if not (x.is_real and y.is_real) or abs(y) < _TINY or abs(x) < _TINY:
            return bool(f == g)
        ratios.append(x / y)
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

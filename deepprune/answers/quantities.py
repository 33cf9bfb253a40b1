"""Plain numbers, and the units dropped from them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from deepprune.answers.notation import NUMBER_WORDS, tight


class PlainNumber(NamedTuple):
    """A number in any of the notations that need no algebra."""

    value: Fraction
    is_decimal: bool  # written with a decimal point


_NO_UNITS = frozenset(
    (
        *("hundred", "thousand", "million", "billion", "trillion", "dozen", "am", "pm"),
        *("alpha", "beta", "gamma", "delta", "theta", "sqrt", "sinh", "cosh", "tanh", "frac"),
    )
)
_UNITS = frozenset(
    (
        *("mm", "cm", "km", "in", "inch", "ft", "mi", "mg", "kg", "lb", "oz", "ml", "mol", "atm"),
        *("sec", "min", "hr", "hour", "day", "week", "month", "year", "mph", "km/h", "m/s", "hz"),
        *("usd", "dollar", "cent", "euro", "unit", "deg", "rad", "ohm", "kw", "kwh", "kj", "ev"),
        *("th", "st", "nd", "rd"),
    )
)
_LETTER_UNITS = frozenset(("m", "g", "l", "s", "h"))  # 5 m, but neither 5m nor x m
_MAX_UNIT_WORDS = 4
_PLAIN_UNIT = re.compile(r"(?<=[\d})]) ?([A-Za-z][A-Za-z/. ]*?)\.?(?:\^\{?[23]\}?)?$")
_TEXT_UNIT = re.compile(
    r"(?:\^\{?)?((?: ?(?:/|\\cdot)? ?\\text\{(?:[^{}]|\^\{[^{}]*\})*\}(?: ?\^\{?-?\d\}?)?)+)"
    r"(?:\}(?!\{))?(?: ?\^\{?[23]\}?)?$"
)
_IN_WORDS = re.compile(r"(?<=\d) ?\((?!mod)[A-Za-z ,-]{4,}\)$")  # 18 (eighteen dollars)
_OTHER_SCRIPT = re.compile("(?<=\\d) ?[\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+$")
_UNIT_WORD = re.compile(r"[A-Za-z]{4}")  # 5 apples; but 5 x and 5 ab are products
_DEGREES = re.compile(r" ?(?:\^ ?\{?\\circ\}?(?: ?[CF])?|%)$")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|cis)")

_DECIMAL = re.compile(r"([+-]?)(\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})")
_SCIENTIFIC = re.compile(
    r"([+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}))?"
    r"(?:[eE]|(?:^|\\times|\\cdot|\*|x)10\^)\{?([+-]?\d{1,3})\}?"
)
_REPEATING = re.compile(r"([+-]?)(\d{0,40})\.(\d{0,40})\\overline\{(\d{1,40})\}")
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac\{([+-]?\d{1,400})\}\{([+-]?\d{1,400})\}|(\d{1,400})/(\d{1,400}))"
)
_RATIO = re.compile(r"(\d{1,40}) ?: ?(?![0-5]\d$)(\d{1,40})")  # 3:2; but 2:30 is a time
_ELLIPSIS = re.compile(r"([+-]?)(\d{0,40})\.(\d{0,40}?)(\d)\4\4+ ?\\ldots ?")  # 0.333...
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(rf"(.+?) ?(?:\\text\{{ ?)?({'|'.join(_MAGNITUDES)}) ?\}}?")
_TWO_NUMBERS = re.compile(r"\d \d(?!\d\d(?!\d))")  # 1 2; but 1 200 is one number
_MIXED = re.compile(
    r"([+-]?) ?(\d{1,400}) ?(?:(?<= )(\d{1,400})/|\\frac\{(\d{1,400})\}\{)(\d{1,400})\}?"
)


def strip_units(text: str) -> str:
    """Remove a trailing unit, ordinal, degree or percent sign from a value."""
    for _ in range(3):
        bare = _OTHER_SCRIPT.sub("", _IN_WORDS.sub("", text))
        if not _TRIGONOMETRY.search(text):
            bare = _DEGREES.sub("", bare)
        if (unit := _TEXT_UNIT.search(bare)) and _is_unit(_words_of(unit[1]), anything=True):
            rest = bare[: unit.start()].strip()
            bare = rest if rest and "\\text" not in rest else bare
        elif unit := _PLAIN_UNIT.search(bare):
            rest, is_apart = bare[: unit.start()], unit[0][0] == " "
            is_word = _UNIT_WORD.search(unit[1]) is not None or unit[1].startswith("per ")
            is_letter = unit[1].lower() in _LETTER_UNITS and plain_number(rest) is not None
            if (is_apart and is_letter) or _is_unit(unit[1], anything=is_apart and is_word):
                bare = rest
        if bare == text:
            break
        text = bare.strip()
    return text


def _words_of(unit: str) -> str:
    return re.sub(r"\\text\{|\\cdot|[{}]", " ", unit)


def _is_unit(words: str, *, anything: bool) -> bool:
    words = words.lower().replace(".", "").strip()
    if not words or _NO_UNITS.intersection(words.split()):
        return False
    if len(words.split()) > _MAX_UNIT_WORDS:
        return False
    if words in _UNITS or words.removesuffix("s") in _UNITS:
        return True
    return anything


def plain_number(text: str) -> PlainNumber | None:
    """Parse an integer, decimal, fraction, mixed number or number in scientific notation."""
    value: Fraction | None = None
    is_decimal = False
    if mixed := _MIXED.fullmatch(text):
        sign, whole, a, b, denominator = mixed.groups()
        if int(denominator):
            value = int(whole) + Fraction(int(a or b), int(denominator))
            value = -value if sign == "-" else value
        return None if value is None else PlainNumber(value, is_decimal)
    if (large := _MAGNITUDE.fullmatch(text)) and (small := plain_number(large[1])):
        return PlainNumber(small.value * 10 ** _MAGNITUDES[large[2]], False)
    if _TWO_NUMBERS.search(text):
        return None
    text = tight(text)
    text = NUMBER_WORDS.get(text.lower(), text)
    while text[:1] == "{" and text[-1:] == "}" and text.count("{") == 1:
        text = text[1:-1]
    if _DECIMAL.fullmatch(text):
        value, is_decimal = Fraction(text.rstrip(".")), "." in text.rstrip(".")
    elif fraction := _FRACTION.fullmatch(text):
        sign, a, b, c, d = fraction.groups()
        if int(b or d):
            value = Fraction(int(a or c), int(b or d)) * (-1 if sign == "-" else 1)
    elif (ratio := _RATIO.fullmatch(text)) and int(ratio[2]):
        value = Fraction(int(ratio[1]), int(ratio[2]))
    elif ellipsis := _ELLIPSIS.fullmatch(text):
        sign, whole, fixed, period = ellipsis.groups()
        return plain_number(f"{sign}{whole}.{fixed}\\overline{{{period}}}")
    elif repeating := _REPEATING.fullmatch(text):
        sign, whole, fixed, period = repeating.groups()
        value = Fraction(int(whole + fixed or 0)) + Fraction(int(period), 10 ** len(period) - 1)
        value = value / 10 ** len(fixed) * (-1 if sign == "-" else 1)
    elif scientific := _SCIENTIFIC.fullmatch(text):
        mantissa, exponent = scientific.groups()
        value = Fraction(mantissa or "1") * Fraction(10) ** int(exponent)
        is_decimal = "." in (mantissa or "")
    return None if value is None else PlainNumber(value, is_decimal)

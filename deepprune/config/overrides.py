"""Read overrides as users type them: a value that Hydra's grammar refuses is quoted for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"[+]{0,2}[A-Za-z_][\w./@:-]*", re.ASCII)
_QUOTED = re.compile(r'(\s*)"(.*)"(\s*)', re.DOTALL)


def as_typed(override: str) -> str:
    r"""Quote what Hydra's grammar refuses in the value of ``NAME=VALUE``, so that it means itself.

    Lists, dictionaries and several values of a sweep are quoted item by item. A value that the
    grammar reads keeps Hydra's meaning, and so does a word of another form.

    >>> as_typed("judge.path=runs/lr=0.1/judge"), as_typed("data.models=[a,b=c]")
    ('judge.path="runs/lr=0.1/judge"', 'data.models=[a,"b=c"]')
    """
    name, equals, value = override.partition("=")
    if not (equals and _NAME.fullmatch(name)) or _is_read(override):
        return override
    return f"{name}={','.join(map(_item, _items(value)))}"


def one_value(override: str) -> str:
    """Quote the value of an override as a whole, as it was before `as_typed`: it has commas."""
    name, _, value = override.partition("=")
    parts = (_QUOTED.sub(lambda m: m[1] + _unescaped(m[2]) + m[3], part) for part in _items(value))
    return f"{name}={quoted(','.join(parts))}"


def list_of(values: Iterable[str]) -> str:
    """Write a list of strings in Hydra's grammar."""
    return f"[{','.join(map(quoted, values))}]"


def _is_read(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _item(text: str) -> str:
    if _is_read(f"x={text}"):
        return text
    inner = text.strip()
    start, end = (text[: text.find(inner)], text[text.find(inner) + len(inner) :])
    if inner[0] + inner[-1] == "[]":
        inner = f"[{','.join(map(_item, _items(inner[1:-1])))}]"
    elif inner[0] + inner[-1] == "{}":
        pairs = (item.partition(":") for item in _items(inner[1:-1]))
        inner = f"{{{','.join(f'{key}:{_item(value)}' for key, _, value in pairs)}}}"
    else:
        inner = quoted(inner)
    return start + inner + end


def _items(text: str) -> Iterator[str]:
    """Split at the commas outside of brackets and quotes; a quote opens where an item begins."""
    start, depth, quote = 0, 0, ""
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[i - 1] != "\\" else quote
        elif character in "'\"" and text[start:i].strip("[{( ") == "":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in ")}]":
            depth -= 1
        elif character == "," and not depth and text[i - 1 : i] != "\\":
            yield text[start:i]
            start = i + 1
    yield text[start:]


def quoted(text: str) -> str:
    """Quote a text in Hydra's grammar: only backslashes before a quote are doubled."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def _unescaped(text: str) -> str:
    return re.sub(r'(\\+)("|$)', lambda m: m[1][: len(m[1]) // 2] + m[2], text)

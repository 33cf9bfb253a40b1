"""Ranges of options, written in the annotations of the constructor that takes them.

    @checked
    class FocalLoss:
        def __init__(self, gamma: Annotated[float, Ge(0)] = 2.0): ...

    FocalLoss(gamma=-1)  # ValueError: gamma must be >= 0, got -1

``config.generate`` reads the same annotations, so that a value is refused as soon as the
configuration is composed. A ``Literal`` or an enum of strings lists the legal values.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache, partial, wraps
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T", bound=Callable[..., Any])

_INIT = "__init__"
_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


class Bound(NamedTuple):
    """A limit of a number, for ``Annotated``."""

    relation: str
    limit: float


Ge, Gt = partial(Bound, ">="), partial(Bound, ">")
Le, Lt = partial(Bound, "<="), partial(Bound, "<")

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]


def checked(target: T) -> T:
    """Check the arguments of a class or function against its annotations at every call.

    Raises:
        ValueError: At a call, if a value is out of range or is none of the choices.
    """
    function: Any = getattr(target, _INIT) if isinstance(target, type) else target
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        hints = hints_of(target)
        for name, value in signature.bind(*arguments, **keywords).arguments.items():
            if name in hints:
                check(name, hints[name], value)
        return function(*arguments, **keywords)

    if isinstance(target, type):
        setattr(target, _INIT, call)
        return target
    return call  # type: ignore[return-value]  # same signature


@cache
def hints_of(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the resolved annotations of a constructor's or function's parameters."""
    is_dataclass = hasattr(target, "__dataclass_fields__")
    is_plain = isinstance(target, type) and not is_dataclass
    function: Any = getattr(target, _INIT) if is_plain else target
    return get_type_hints(inspect.unwrap(function), include_extras=True)


def check(name: str, annotation: Any, value: Any) -> None:
    """Check a value against the bounds and choices of an annotation.

    Raises:
        ValueError: If it is out of range or is none of the choices.
    """
    kind, bounds, is_optional = parts(annotation)
    if value is None:
        return  # whether null is legal is a question of types
    if get_origin(kind) in (list, Sequence) and not isinstance(value, str):
        for element in value:
            check(name, get_args(kind)[0], element)
        return
    known = choices(kind)
    is_number = isinstance(value, int | float)
    holds = all(_HOLDS[relation](value, limit) for relation, limit in bounds if is_number)
    if holds and (not known or value in known):
        return
    rule = f"be one of {', '.join(map(str, known))}" if known else _said(bounds)
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    raise ValueError(f"{name} must {rule}{' or null' * is_optional}, got {shown}")


def parts(annotation: Any) -> tuple[Any, tuple[Bound, ...], bool]:
    """Split an annotation into its type, its bounds and whether it may be ``None``."""
    is_optional = False
    if get_origin(annotation) in (Union, UnionType):
        members = [a for a in get_args(annotation) if a is not NoneType]
        is_optional = len(members) < len(get_args(annotation))
        if len(members) > 1:
            return annotation, (), is_optional
        (annotation,) = members
    if get_origin(annotation) is Annotated:
        kind, *bounds = get_args(annotation)
        kind = next((b for b in bounds if get_origin(b) is Literal), kind)  # for schemas
        return kind, tuple(b for b in bounds if isinstance(b, Bound)), is_optional
    return annotation, (), is_optional


def choices(kind: Any) -> tuple[Any, ...]:
    """Return the legal values of a ``Literal`` or an enum, none for any other type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    is_enum = isinstance(kind, type) and issubclass(kind, Enum)
    return tuple(member.value for member in kind) if is_enum else ()


def range_of(annotation: Any) -> str:
    """Return the legal values of an option in words, e.g. ``>= 1`` or ``in [0, 1]``."""
    kind, bounds, _ = parts(annotation)
    if get_origin(kind) in (list, Sequence):
        return range_of(get_args(kind)[0])
    if known := choices(kind):
        return ", ".join(map(str, known))
    return _said(bounds).removeprefix("be ").removeprefix("lie ") if bounds else ""


def _said(bounds: Sequence[Bound]) -> str:
    if len(bounds) == 1:
        return f"be {bounds[0].relation} {bounds[0].limit}"
    (low, least), (high, most) = bounds
    opening, closing = "[" if low == ">=" else "(", "]" if high == "<=" else ")"
    return f"lie in {opening}{least}, {most}{closing}"

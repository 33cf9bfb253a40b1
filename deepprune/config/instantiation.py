"""Hydra's ``instantiate`` with errors that name the option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from deepprune.core.errors import InputError


def instantiated(node: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call Hydra's ``instantiate``; an InputError of a constructor passes as it is."""
    try:
        return instantiate(node, *arguments, **keywords)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise


@contextmanager
def inputs_of(name: str) -> Iterator[None]:
    """Name the option ``name`` in a ``ValueError`` of a constructor."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error

"""What the settings of engine=openai must be."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from deepprune.core.errors import InputError

MOST_CONNECTIONS = 1000  # of the openai client's pool


def check_settings(base_url: str, api_key_env: str) -> None:
    """Check the arguments of `OpenAIBackend`; no message shows what could be a key.

    Raises:
        InputError: If one is out of its range or ``base_url`` carries a key.
    """
    if any(mark in base_url for mark in "@?#"):
        raise InputError(
            "engine.base_url is recorded and must not carry a key: no user, password, query or "
            "fragment. Put the key into an environment variable and name that by "
            "engine.api_key_env."
        )
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(
            f"engine.base_url must be like http://localhost:8000/v1, got {base_url!r}."
        )
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", api_key_env):
        raise InputError(
            "engine.api_key_env must be the name of an environment variable, in capitals; what it "
            "got is not shown, since it could be a key."
        )

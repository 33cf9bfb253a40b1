"""What goes wrong with a server, and when a request is sent again."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deepprune.core.errors import InputError
from deepprune.generation.backend import EngineError, RequestError
from deepprune.generation.openai.stream import Broken, without_surrogates

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0


class Refused(RequestError):
    """The server does not want this request."""

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of one request: what is said of it, and whether the request may go again."""

    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    is_gone: bool = False  # nobody listens

    @property
    def is_final(self) -> bool:
        """To send the same request again would be of no use."""
        return (
            self.status is not None
            and self.status < 500
            and self.status not in (408, 409, 425, 429)
        )


@dataclass(frozen=True)
class Faults:
    """Reads the errors of the openai client.

    Attributes:
        base_url: Of the server.
        key: What no message may show.
        key_env: The environment variable that holds it.
        timeout_s: Longest wait for the server, in seconds.
        max_retries: Failures in a row that a request survives.
    """

    base_url: str
    key: str = field(repr=False)
    key_env: str
    timeout_s: float
    max_retries: int

    def of(self, error: Exception) -> Failure:
        """What an error means; errors that are no failure of the server are raised again."""
        import openai

        if isinstance(error, RequestError | EngineError | InputError):
            raise error
        # openai 2 lets the errors of its transport through where they come within a stream
        is_bare = type(error).__module__.partition(".")[0] == "httpx"
        if isinstance(error, openai.APITimeoutError) or (is_bare and "Timeout" in str(type(error))):
            return Failure(
                f"no answer within engine.timeout_s={self.timeout_s:g} seconds",
                is_gone=_is_connecting(error),
            )
        if isinstance(error, openai.APIConnectionError) or is_bare:
            return Failure("the connection was closed", is_gone=_is_connecting(error))
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            said = error.body.get("message") if isinstance(error.body, dict) else error.body
            return Failure(
                f"the server answered {status}: {self._clean(str(said or error.message))}",
                status,
                _retry_after(error.response.headers),
            )
        if isinstance(error, openai.APIError):  # within a stream
            code = error.body.get("code") if isinstance(error.body, dict) else None
            return Failure(
                f"the server broke the stream off: {self._clean(error.message)}",
                code if isinstance(code, int) and code >= 400 else None,
            )
        if isinstance(error, Broken):
            return Failure(str(error))
        if isinstance(error, ValueError):  # of the JSON
            return Failure("the server sent something that is no JSON")
        raise error

    def _clean(self, message: str) -> str:
        """One short line without the key, which some servers repeat."""
        line = " ".join(without_surrogates(message).split())
        return (line.replace(self.key, "[key]") if self.key else line)[:300]

    def final(self, failure: Failure) -> Exception:
        """The error of a failure that no retry mends."""
        if failure.status in (401, 403):
            return EngineError(
                f"{self.base_url} refuses the key ({failure.reason}): put it into the environment "
                f"variable {self.key_env}"
                f"{', which is unset' if not self.key else ''}."
            )
        if failure.is_gone:
            return EngineError(f"the server at {self.base_url} is gone, or was never there.")
        if failure.is_final:
            return Refused(failure.reason, failure.status)
        if (asked := failure.retry_after_s or 0.0) > self.timeout_s:
            return RequestError(
                f"{failure.reason}; it asks to wait {asked:g} seconds, longer than engine.timeout_s"
            )
        return RequestError(f"{failure.reason}; given up after {self.max_retries} retries")


class Patience:
    """Counts the failures of a request in a row, and waits between them."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._n_failures = 0

    def reset(self) -> None:
        """Something has come: failures are counted anew."""
        self._n_failures = 0

    async def wait(self, failure: Failure) -> None:
        """Wait until the request may be sent again.

        Raises:
            RequestError: If it shall not.
            EngineError: If the server is lost.
        """
        faults = self._faults
        asked = failure.retry_after_s or 0.0
        if failure.is_final or self._n_failures >= faults.max_retries or asked > faults.timeout_s:
            raise faults.final(failure)
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._n_failures)
        self._n_failures += 1
        await asyncio.sleep(asked + longest * random.uniform(0.5, 1.0))


def _is_connecting(error: Exception) -> bool:
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else None

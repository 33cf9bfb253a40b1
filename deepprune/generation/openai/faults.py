"""Errors of an OpenAI-compatible server, converted to ours."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepprune.generation.backend import EngineError, RequestError
from deepprune.traces.source import whole


class Refused(RequestError):
    """The server refuses this request, however often it is sent; ``status`` is its HTTP status."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Faults:
    """Converts the errors of the openai client.

    Attributes:
        base_url: Address of the server.
        key: The key, which no message may show.
        key_env: The environment variable that holds it.
        timeout_s: Longest wait for the server, in seconds.
    """

    base_url: str
    key: str = field(repr=False)
    key_env: str
    timeout_s: float

    def read(self, error: Exception) -> EngineError | RequestError:
        """Return our error for one of the client's; an error that is not the server's is raised."""
        import openai

        if isinstance(error, RequestError):
            return error
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
            return EngineError(f"the server at {self.base_url} is gone, or was never there.")
        # openai 2 lets the errors of its transport through if they occur within a stream
        is_bare = type(error).__module__.partition(".")[0] == "httpx"
        if isinstance(error, openai.APITimeoutError) or (is_bare and "Timeout" in str(type(error))):
            return RequestError(f"no answer within engine.timeout_s={self.timeout_s:g} seconds")
        if isinstance(error, openai.APIConnectionError) or is_bare:
            return RequestError("the connection was closed")
        if isinstance(error, openai.APIError):
            body = error.body if isinstance(error.body, dict) else {}
            said = self._clean(str(body.get("message") or error.message))
            if isinstance(error, openai.APIStatusError):
                status: object = error.status_code
                return self._of_status(status, f"the server answered {status}: {said}")
            return self._of_status(body.get("code"), f"the server broke the stream off: {said}")
        if isinstance(error, ValueError):
            return RequestError("the server sent something that is not JSON")
        raise error

    def _clean(self, message: str) -> str:
        """Return one short line without the key, which some servers repeat."""
        line = " ".join(whole(message).split())
        return (line.replace(self.key, "[key]") if self.key else line)[:300]

    def _of_status(self, status: object, reason: str) -> EngineError | RequestError:
        if status in (401, 403):
            unset = "" if self.key else ", which is unset"
            return EngineError(
                f"{self.base_url} refuses the key ({reason}): put it into the environment variable "
                f"{self.key_env}{unset}."
            )
        is_retried = status in (408, 409, 429)  # by the client, as are most errors from 500 on
        if isinstance(status, int) and (400 <= status < 500 or status == 501) and not is_retried:
            return Refused(reason, status)
        return RequestError(reason)

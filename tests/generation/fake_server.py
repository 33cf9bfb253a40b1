"""An OpenAI-compatible server on a real socket that plays texts, token by token. Stdlib only.

    with FakeServer({"What is 1 + 1?": ["It is \\boxed{2}.", "I say \\boxed{3}."]}) as server:
        OpenAI(base_url=server.url, api_key="none")

A request's ``seed`` picks the text. A prompt that already holds the beginning of one is answered
with the rest of it, a prompt that opens a box with the answer of its text. What it can do is
switched by `Abilities`, what goes wrong by `FakeServer.fault` or ``POST /fault``; ``GET /counts``
says what runs. As a process: ``python fake_server.py --port 0 --texts texts.json`` prints its
address on the first line.
"""

import argparse
import contextlib
import json
import random
import re
import select
import socket
import threading
import time
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, END, ASSISTANT = "<|user|>\n", "<|end|>\n", "<|assistant|>\n"
COUNTING = ", ".join(str(n) for n in range(1, 41)) + "."
KNOWN = {  # what the servers of others accept; a strict one refuses the rest
    *("model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"),
    *("stream", "stream_options", "logprobs", "top_logprobs"),
}


@dataclass
class Abilities:
    completions: bool = True
    chat: bool = True
    prefill: str = "flag"  # flag: continue_final_message; last: the last message; none; refuse
    logprobs: bool = True
    token_ids: bool = False  # return_token_ids, as vLLM
    tokenize: bool = False  # POST /tokenize, as vLLM
    usage: bool = True
    reasoning: str = ""  # field of the deltas that hold what is within <think>
    strict: bool = False  # 400 for a field that OpenAI does not have
    refuses: str = ""  # fields that end in a 400, which names the first of them
    says: str = "Unsupported parameter: '{}'."  # the words of that
    finish: str = "null"  # what all events but the last say; never: the last one too
    logprob: str = ""  # of the alternatives to every fifth token: null, nan, inf, clamped, absent
    tokens_per_chunk: int = 1


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests.

    kind: status, hang (no answer), close (after ``after`` tokens), drop (the stream ends in order
    but early), stall (no more bytes after ``after`` tokens), malformed (a line that is no JSON),
    wrong (JSON of another shape), error (an error within the stream), tokenize (a status of
    /tokenize).
    """

    kind: str
    times: int = 1
    status: int = 500
    retry_after: float | None = None
    after: int = 0
    message: str = "something broke"


def tokens_of(text):
    return re.findall(r"\s*\w{1,4}|\s*[^\w\s]|\s+", text)


def default_texts(question, n=64):
    """Texts of 20 to 120 tokens, most of which end in the same answer."""
    texts = []
    for sample in range(n):
        rng = random.Random(f"{question}|{sample}")
        steps = [
            f"Step {i}: {rng.randrange(10**6)} stands." for i in range(1, rng.randrange(4, 16))
        ]
        answer = sum(map(ord, question)) % 10 + rng.choice([0, 0, 0, 1, 2])
        texts.append(" ".join([*steps, f"So the final answer is \\boxed{{{answer}}}."]))
    return texts


class FakeServer:
    def __init__(
        self,
        texts=None,
        *,
        port=0,
        models=("fake-model",),
        seconds_per_token=0.0,
        key=None,
        decode=None,
        **able,
    ):
        self.texts = {"Count from 1": [COUNTING], **(texts or {})}
        self.models = tuple(models)
        self.seconds_per_token = seconds_per_token
        self.key = key
        self.decode = decode or self._decode
        self.able = Abilities(**able)
        self.n_running = self.n_started = self.n_disconnected = 0
        self.requests = []  # path and body of each, in order
        self.headers = []
        self._vocabulary, self._ids = [], {}
        self._faults = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._http = _Http(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def root(self):
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self):
        return f"{self.root}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """As if killed: open connections are cut, new ones refused."""
        if not self._is_closing.is_set():
            self._is_closing.set()
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._thread.join()

    def fault(self, kind, times=1, **settings):
        with self._lock:
            self._faults.append(Fault(kind, times, **settings))

    def mend(self):
        with self._lock:
            self._faults.clear()

    def counts(self):
        with self._lock:
            return {
                name: getattr(self, name) for name in ("n_running", "n_started", "n_disconnected")
            }

    def wait_idle(self, seconds=60.0):
        """Whether nothing runs any more, within so many seconds."""
        end = time.monotonic() + seconds
        while self.n_running and time.monotonic() < end:
            time.sleep(0.005)
        return self.n_running == 0

    # what a request is answered with

    def answer_to(self, prompt, seed):
        """The text that follows a prompt."""
        question, after = self._split(prompt)
        texts = self.texts.get(question) or default_texts(question)
        first = seed % len(texts)
        ordered = [texts[first], *texts[:first], *texts[first + 1 :]]
        if after is not None:
            for text in ordered:
                if text.startswith(after):
                    return text[len(after) :]
        elif not prompt.endswith("{"):
            best = max(ordered, key=lambda text: _overlap(prompt, text))
            return best[_overlap(prompt, best) :] if _overlap(prompt, best) else ordered[0]
        begun = after if after is not None else prompt
        best = max(ordered, key=lambda text: _contained(begun, text))
        boxed = re.findall(r"\\boxed\{([^{}]*)\}", best)
        return f"{boxed[-1] if boxed else 'unknown'}}} is it."

    def _split(self, prompt):
        """The question, and what stands after the assistant's mark; ``None`` without a mark."""
        after = prompt.rsplit(ASSISTANT, 1)[1] if ASSISTANT in prompt else None
        asked = prompt.rsplit(ASSISTANT, 1)[0]
        known = [q for q in self.texts if q in asked]
        if known:
            return max(known, key=len), after
        if after is not None:
            return asked.rsplit(USER, 1)[-1].removesuffix(END), after
        return asked.split("Step 1:")[0], after

    def ids(self, tokens):
        with self._lock:
            for token in tokens:
                if token not in self._ids:
                    self._ids[token] = len(self._vocabulary) + 100
                    self._vocabulary.append(token)
            return [self._ids[token] for token in tokens]

    def _decode(self, ids):
        return "".join(self._vocabulary[i - 100] for i in ids)

    def take_fault(self, *, of_tokenize=False):
        with self._lock:
            of_them = (f for f in self._faults if (f.kind == "tokenize") == of_tokenize)
            fault = next(of_them, None)
            if fault is None:
                return None
            fault.times -= 1
            if fault.times <= 0:
                self._faults.remove(fault)
            return fault

    def count(self, delta, *, disconnected=False):
        with self._lock:
            self.n_running += delta
            self.n_started += delta > 0
            self.n_disconnected += disconnected


def render(messages, is_open):
    """The chat template: an open chat has no end after its last message."""
    marks = {"user": USER, "assistant": ASSISTANT, "system": "<|system|>\n"}
    text = "".join(marks[m["role"]] + m["content"] + END for m in messages)
    return text.removesuffix(END) if is_open else text + ASSISTANT


def _overlap(prompt, text):
    """The longest beginning of ``text`` that ends ``prompt``."""
    return next((k for k in range(len(text), 0, -1) if prompt.endswith(text[:k])), 0)


def _contained(prompt, text):
    """The longest beginning of ``text`` within ``prompt``."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[:middle] in prompt else (low, middle - 1)
    return low


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, *arguments):
        self.open_sockets = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass  # clients go away in these tests

    def cut(self):
        for each in list(self.open_sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Gone(Exception):
    """The client has closed the connection, or a fault ends it."""


def _handler(server):
    class Handler(_Handler):
        fake = server

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake = None

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            if self._is_allowed():
                self._json({"object": "list", "data": [{"id": m} for m in self.fake.models]})
        elif self.path == "/counts":
            self._json(self.fake.counts())
        else:
            self._error(404, "Not Found")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/fault":
            self.fake.fault(**body)
            return self._json({})
        self.fake.requests.append((self.path, body))
        self.fake.headers.append({k.lower(): v for k, v in self.headers.items()})
        if self.path == "/tokenize" and (fault := self.fake.take_fault(of_tokenize=True)):
            return self._error(fault.status, fault.message)
        if not self._is_allowed():
            return None
        able = self.fake.able
        if self.path == "/tokenize" and able.tokenize:
            return self._tokenize(body)
        if not (
            (self.path == "/v1/completions" and able.completions)
            or (self.path == "/v1/chat/completions" and able.chat)
        ):
            return self._error(404, "Not Found")
        if able.strict and (unknown := sorted(set(body) - KNOWN)):
            return self._error(400, f"Unrecognized request argument supplied: {unknown[0]}")
        if refused := [field for field in able.refuses.split() if field in body]:
            return self._error(400, able.says.format(refused[0]))
        if body["model"] not in self.fake.models:
            return self._error(404, f"The model {body['model']!r} does not exist.")
        self.fake.count(+1)
        self.close_connection = False
        disconnected = False
        try:
            self._generate(body)
        except Gone as gone:
            disconnected = not gone.args
            self.close_connection = True
        except OSError:
            disconnected = self.close_connection = True
        finally:
            self.fake.count(-1, disconnected=disconnected)

    def _is_allowed(self):
        key = self.fake.key
        given = self.headers.get("Authorization", "")
        if key is None or given == f"Bearer {key}":
            return True
        self._error(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}")
        return False

    def _tokenize(self, body):
        text = render(body["messages"], False) if "messages" in body else body["prompt"]
        ids = self.fake.ids(tokens_of(text))
        self._json({"tokens": ids, "count": len(ids), "max_model_len": 4096})

    def _generate(self, body):
        fake, able = self.fake, self.fake.able
        fault = fake.take_fault()
        if fault and fault.kind == "status":
            after = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return self._error(fault.status, fault.message, after)
        if fault and fault.kind == "hang":
            self._wait(None)
        is_chat = "messages" in body
        if is_chat:
            is_prefilled = body["messages"][-1]["role"] == "assistant"
            if is_prefilled and able.prefill == "refuse":
                return self._error(400, "the last message must be the user's")
            is_open = is_prefilled and (
                able.prefill == "last"
                or (able.prefill == "flag" and body.get("continue_final_message", False))
            )
            prompt = render(body["messages"], is_open)
        else:
            prompt = body["prompt"]
            prompt = prompt if isinstance(prompt, str) else fake.decode(prompt)
        text, finish, stopped_by = self._limited(
            fake.answer_to(prompt, body.get("seed") or 0), body
        )
        tokens, n = tokens_of(text), body.get("max_tokens", body.get("max_completion_tokens", 16))
        if len(tokens) > n:
            tokens, finish, stopped_by = tokens[:n], "length", None
        usage = {"prompt_tokens": len(tokens_of(prompt)), "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": "x", "created": 0, "model": body["model"]}
        head["object"] = "chat.completion" if is_chat else "text_completion"
        if not body.get("stream"):
            self._wait(len(tokens) * fake.seconds_per_token)
            choice = {"index": 0, "finish_reason": finish, "text": "".join(tokens)}
            if is_chat:
                choice["message"] = {"role": "assistant", "content": choice.pop("text")}
            return self._json({**head, "choices": [choice], "usage": usage})
        if is_chat:
            head["object"] += ".chunk"
        self._stream(
            self._choices(tokens, finish, stopped_by, body, prompt), head, usage, body, fault
        )

    def _limited(self, text, body):
        """What comes before a stop string, with it only if asked for."""
        stop = body.get("stop") or []
        found = [
            (text.index(s), s) for s in ([stop] if isinstance(stop, str) else stop) if s in text
        ]
        if not found:
            return text, "stop", None
        at, which = min(found)
        return text[: at + len(which) * bool(body.get("include_stop_str_in_output"))], "stop", which

    def _choices(self, tokens, finish, stopped_by, body, prompt):
        """The chunks of a stream, each with the number of its tokens."""
        able, is_chat = self.fake.able, "messages" in body
        size = able.tokens_per_chunk
        if is_chat:
            yield {"index": 0, "delta": {"role": "assistant", "content": ""}}, 0
        thinking = bool(able.reasoning) and is_chat and "</think>" in "".join(tokens)
        for at in range(0, max(len(tokens), 1), size):
            part = tokens[at : at + size]
            text = "".join(part)
            choice = {"index": 0, "finish_reason": None if able.finish == "null" else ""}
            if is_chat:
                before = "".join(tokens[:at])
                is_thought = thinking and "</think>" not in before
                named = able.reasoning if is_thought else "content"
                choice["delta"] = {named: text}
                if is_thought or before.endswith("</think>"):
                    # a parser sends the tags to nobody
                    choice["delta"] = _parsed(before, text, able.reasoning)
            else:
                choice["text"] = text
            if able.logprobs and body.get("logprobs") not in (None, False):
                bad = able.logprob if at // size % 5 == 4 else ""
                if bad != "absent":
                    choice["logprobs"] = _logprobs(part, body, is_chat, bad)
            if able.token_ids and body.get("return_token_ids"):
                choice["token_ids"] = self.fake.ids(part)
                if at == 0:
                    choice["prompt_token_ids"] = self.fake.ids(tokens_of(prompt))
            if at + size >= len(tokens):
                last = "" if able.finish == "never" else finish
                choice |= {"finish_reason": last, "stop_reason": stopped_by}
            yield choice, len(part)

    def _stream(self, choices, head, usage, body, fault):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        n_sent = 0
        for choice, n in choices:
            if fault and n and n_sent + n > fault.after:
                self._break(fault, head)
            if n:
                self._wait(n * self.fake.seconds_per_token)
            self._event(json.dumps({**head, "choices": [choice]}))
            n_sent += n
        if self.fake.able.usage and (body.get("stream_options") or {}).get("include_usage"):
            self._event(json.dumps({**head, "choices": [], "usage": usage}))
        self._event("[DONE]")
        self._chunk(b"")

    def _break(self, fault, head):
        if fault.kind == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.kind == "drop":
            self._chunk(b"")
        elif fault.kind == "stall":
            self._wait(None)
        elif fault.kind == "malformed":
            self._event('{"choices": [{"ind')
        elif fault.kind == "wrong":
            self._event(json.dumps({"choices": "none", "hello": [1]}))
        elif fault.kind == "error":
            self._event(json.dumps({"error": {"message": fault.message, "code": fault.status}}))
        raise Gone("fault")

    def _wait(self, seconds):
        """Let time pass; raises `Gone` when the client closes or the server does."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = 0.05 if end is None else min(0.05, max(0.0, end - time.monotonic()))
            if select.select([self.connection], [], [], left)[0]:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise Gone
                time.sleep(left)
            if self.fake._is_closing.is_set():
                raise Gone("closed")
            if end is not None and time.monotonic() >= end:
                return

    def _event(self, data):
        self._chunk(f"data: {data}\n\n".encode())

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, value, status=200, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status, message, headers=None):
        self._json({"error": {"message": message, "code": status}}, status, headers)


def _parsed(before, text, field):
    """One delta of a server with a reasoning parser: the tags are cut out."""

    def parts(whole):
        thought, closed, content = whole.partition("</think>")
        thought = thought.removeprefix("<think>") if len(thought) >= 7 else ""
        if not closed:  # a beginning of the tag is held back
            held = next((k for k in range(8, 0, -1) if thought.endswith("</think>"[:k])), 0)
            thought = thought[: len(thought) - held]
        return thought, content

    (old, _), (new, content) = parts(before), parts(before + text)
    delta = {field: new[len(old) :]} if len(new) > len(old) else {}
    return delta | ({"content": content} if content and "</think>" not in before else {}) or {
        "content": text if "</think>" in before else ""
    }


BAD = {"null": None, "nan": float("nan"), "inf": float("-inf"), "clamped": -9999.0}


def _logprobs(part, body, is_chat, bad=""):
    """Of each token: itself with -0.5, then alternatives that fall by 1; or all of them bad."""

    def top(token, k):
        known = [(token, -0.5), *((f"<{i}>", -0.5 - i) for i in range(1, k))][:k]
        return [(t, BAD.get(bad, p)) for t, p in known]

    if not is_chat:
        k = int(body["logprobs"])
        return {
            "tokens": part,
            "token_logprobs": [-0.5] * len(part),
            "top_logprobs": [dict(top(token, k)) for token in part],
            "text_offset": [0] * len(part),
        }
    k = body.get("top_logprobs") or 0
    return {
        "content": [
            {
                "token": token,
                "logprob": -0.5,
                "bytes": list(token.encode(errors="replace")),
                "top_logprobs": [{"token": t, "logprob": p} for t, p in top(token, k)],
            }
            for token in part
        ]
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--texts", help="JSON: question to list of texts")
    parser.add_argument("--seconds-per-token", type=float, default=0.0)
    parser.add_argument("--model", action="append", dest="models")
    parser.add_argument("--key")
    for field in fields(Abilities):
        kind = json.loads if field.type is bool else field.type
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    given = vars(parser.parse_args())
    texts = given.pop("texts")
    if texts is not None:
        with open(texts, encoding="utf-8") as file:
            texts = json.load(file)
    given["models"] = given["models"] or ["fake-model"]
    server = FakeServer(texts, **given)
    print(server.url, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()

"""A stub of W&B's server on a real socket: as much as ``wandb sync`` asks for. Stdlib only.

with WandbStub() as stub:
    stub.sync(folders)
stub.runs["abc12345"]  # the history rows of that run, as the server would have them
"""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}


class WandbStub:
    """Answers uploads, and says of a run that it knows where its history ends."""

    def __enter__(self):
        self.runs = defaultdict(list)
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = json.dumps(stub.answered(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def answered(self, path, body):
        """Return the answer to a request, and keep the rows of a history."""
        if path.endswith("file_stream"):
            rows = self.runs[path.split("/")[-2]]
            sent = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if sent is not None:
                del rows[sent["offset"] :]
                rows += map(json.loads, sent["content"])
            return {}
        if not path.endswith("graphql"):
            return {}
        asked = json.loads(body)
        return {"data": getattr(self, asked["operationName"], dict)(**asked.get("variables", {}))}

    def RunResumeStatus(self, name, **_):
        return {"model": {**PROJECT, "bucket": self._bucket(name) if name in self.runs else None}}

    def UpsertBucket(self, name, **_):
        return {"upsertBucket": {"bucket": self._bucket(name), "inserted": True}}

    def CreateRunFiles(self, files, **_):
        links = [{"name": name, "uploadUrl": f"{self.url}/up/{name}"} for name in files]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": links}}

    def CreateArtifact(self, **_):
        known = {"id": "a", "versionIndex": 0}
        sequence = {"id": "s", "latestArtifact": known}
        artifact = {
            "id": "a",
            "state": "COMMITTED",
            "artifactSequence": sequence,
        }  # uploads nothing
        return {"createArtifact": {"artifact": artifact}}

    def _bucket(self, name):
        rows = self.runs[name]
        return {
            "id": name, "name": name, "displayName": name, "summaryMetrics": "{}", "config": "{}",
            "historyLineCount": len(rows), "historyTail": json.dumps([*map(json.dumps, rows[-1:])]),
            "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [],
            "wandbConfig": '{"t": 1}', "project": PROJECT,
        }  # fmt: skip

    def sync(self, folders, home):
        """Run ``wandb sync`` on the folders, with settings of its own in ``home``."""
        settings = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40}
        settings |= {f"WANDB_{name}_DIR": str(home) for name in ("CONFIG", "CACHE", "DATA")}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        return subprocess.run(
            command, env=environment | settings, capture_output=True, text=True, timeout=60
        )

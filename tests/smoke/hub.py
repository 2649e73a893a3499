"""A stand-in for the hub: the few calls of an upload, over HTTP, as huggingface_hub makes them."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Knows one token. ``repositories`` maps names to whether they are private; ``files`` holds what was committed."""

    def __init__(self, token: str, owner: str = "org"):
        self.token = token
        self.owner = owner  # the only one that the token may write for
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, dict]:
        """Return (status, answer) of a call."""
        if token != self.token:
            return 401, {"error": "Invalid username or password."}
        parts = path.split("?")[0].strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            return 200, {"name": "ana", "type": "user", "auth": {}}
        if parts == ["api", "validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        repo = "/".join(parts[2:4])
        if repo not in self.repositories:
            return 404, {"error": "Repository not found"}
        if method == "GET":
            return 200, {"id": repo, "private": self.repositories[repo], "siblings": [], "tags": []}
        if parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if parts[4] == "commit":
            return self._commit(repo, body)
        return 404, {"error": f"no {path} here"}

    def _create(self, wanted: dict) -> tuple[int, dict]:
        owner = wanted.get("organization") or "ana"
        if owner != self.owner:
            return 403, {"error": f"You don't have the rights to create a model under the namespace {owner!r}"}
        repo = f"{owner}/{wanted['name']}"
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.repositories.setdefault(repo, private)
        return 200, {"url": f"{self.url}/{repo}", "id": repo}

    def _commit(self, repo: str, body: bytes) -> tuple[int, dict]:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.files.setdefault(repo, {})[line["value"]["path"]] = content
        address = f"{self.url}/{repo}/commit/{'0' * 40}"
        return 200, {"commitUrl": address, "commitOid": "0" * 40, "success": True}

    def _handler(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
                status, answer = hub.answer(self.command, self.path, body, token)
                text = json.dumps(answer).encode()
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        return Handler

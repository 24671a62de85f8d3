"""A Hugging Face Hub in a thread: what `datasets` and `huggingface_hub` ask of it, answered from a dictionary."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

SHA = "0123456789" * 4


def serve(repos: dict[str, dict[str, bytes] | int]) -> http.server.ThreadingHTTPServer:
    """Serve `repos`: "models/owner/name" or "datasets/owner/name" -> its files, or the HTTP status with which it answers (401 and
    403 for a gated one, 500 for a broken server).

    `server.private` holds the names of private repositories. `server.users` maps the tokens of those who may write to their names,
    with which the names of their repositories begin. `server.refuses` is the status of commits, if they must fail.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.private, server.users, server.refuses = repos, set(), {}, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def stop(server: http.server.ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def settings(server: http.server.ThreadingHTTPServer, home) -> dict[str, str]:
    """The environment variables of a process that asks this Hub. huggingface_hub reads them when it is imported."""
    return {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(home), "no_proxy": "*"}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for repositories, trees and files."""

    def answer(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.unquote(self.path.split("?")[0]).strip("/").removeprefix("api/").split("/")
        if parts[0] == "validate-yaml":
            return self.reply_json({"errors": [], "warnings": []})
        if parts[0] in ("whoami-v2", "repos") or parts[3:4] in (["preupload"], ["commit"]):
            return self.write(parts, sent)
        if parts[0] not in ("models", "datasets"):  # the files of a model stand at the top
            parts.insert(0, "models")
        name, rest = "/".join(parts[:3]), parts[3:]
        repo = self.server.repos.get(name)
        if repo is None:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        if isinstance(repo, int):
            return self.reply(repo, {"X-Error-Code": "GatedRepo"} if repo < 500 else {})
        if rest[:1] == ["resolve"]:
            file = "/".join(rest[2:])
            if file not in repo:
                return self.reply(404, {"X-Error-Code": "EntryNotFound"})
            return self.reply(200, {"ETag": f'"{hashlib.sha1(repo[file]).hexdigest()}"'}, repo[file])
        body = {"id": "/".join(parts[1:3]), "sha": SHA, "private": name in self.server.private, "siblings": [{"rfilename": file} for file in repo]}
        if rest[:1] == ["tree"]:
            body = [{"type": "file", "path": file, "size": len(text), "oid": hashlib.sha1(text).hexdigest()}
                    for file, text in repo.items() if file.startswith("/".join(rest[2:]))]
        return self.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def write(self, parts: list[str], sent: bytes):
        """Answer what writes: who is asking, a new repository, and a commit with its files."""
        user = self.server.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            return self.reply(401, {})
        if parts[0] == "whoami-v2":
            return self.reply_json({"name": user, "orgs": [{"name": "club"}]})
        if parts[0] == "repos":
            wanted = json.loads(sent)
            owner = wanted.get("organization") or user
            if owner != user:
                return self.reply(403, {})
            name = f"models/{owner}/{wanted['name']}"
            made = {"url": f"http://{self.headers['Host']}/{owner}/{wanted['name']}"}
            if name in self.server.repos:
                return self.reply_json(made, 409)
            self.server.repos[name] = {".gitattributes": b""}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.server.private.add(name)
            return self.reply_json(made)
        if parts[3] == "preupload":
            return self.reply_json({"files": [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(sent)["files"]]})
        if self.server.refuses:
            return self.reply(self.server.refuses, {})
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                self.server.repos["/".join(parts[:3])][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.reply_json({"commitUrl": f"http://{self.headers['Host']}/{parts[1]}/{parts[2]}/commit/{SHA}", "commitOid": SHA})

    def reply_json(self, body: dict, status: int = 200):
        return self.reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def reply(self, status: int, headers: dict, body: bytes = b""):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass

    do_GET = do_HEAD = do_POST = answer

"""A hub on loopback: as much of its API as a pull needs, with everything that goes wrong.

Speaks `GET /api/models/{repo}/revision/{rev}?blobs=true`, `GET /{repo}/resolve/{rev}/{path}` with
ranges, redirects of large files to a "CDN" of another origin, `GET /api/whoami-v2`, and the error
codes of huggingface.co (huggingface_hub 2.4, utils/_http.py, `hf_raise_for_status`).
"""

import asyncio
import hashlib
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

PIECE = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """What happens to one request for a file."""

    status: int | None = None
    """Answer this instead."""
    headers: dict[str, str] = field(default_factory=dict)
    break_after: int | None = None
    """Close the connection after so many bytes."""
    hold_after: int | None = None
    """Send so many bytes, then wait until the test lets go."""
    flip: bool = False
    """Send other bytes than the hash promises."""
    ignores_range: bool = False


@dataclass
class Repository:
    """One repository: files at each commit; the newest is `main`."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        self.commits[digest.hexdigest()] = files
        return digest.hexdigest()

    def resolve(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    host: str
    range: str | None
    token: str | None


class HubServer:
    """Repositories, faults, and what was asked and sent; one server may serve many tests."""

    def __init__(self) -> None:
        self.url = ""
        self.let_go = threading.Event()
        self.clear()

    def clear(self) -> None:
        """Forget everything, and let answers go that are held back."""
        self.let_go.set()
        self.repositories: dict[str, Repository] = {}
        self.accounts: dict[str, str] = {}
        """Token -> account."""
        self.members: set[str] = set()
        """Accounts that accepted every licence."""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        """By file name, or `api`: one for each request, in order."""
        self.seen: list[Seen] = []
        self.sent: dict[str, int] = defaultdict(int)
        """Bytes of each file that went out."""
        self.let_go = threading.Event()

    def add(self, name: str, files: dict[str, bytes], *, gated: bool = False) -> str:
        """Publish a commit of a repository; return its hash."""
        repository = self.repositories.setdefault(name, Repository())
        repository.gated = gated
        return repository.commit(files)

    def requests_for(self, name: str) -> list[Seen]:
        return [one for one in self.seen if one.path.endswith(name)]

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Listen on a free port until the block ends."""
        config = uvicorn.Config(self._app(), port=0, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        sockets = [config.bind_socket()]
        self._port = sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        thread = threading.Thread(target=lambda: server.run(sockets=sockets), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.let_go.set()
            server.should_exit = server.force_exit = True
            thread.join(30)
            sockets[0].close()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/whoami-v2", self._whoami),
                Route("/api/models/{repo:path}/revision/{revision}", self._info),
                Route("/cdn/{key}/{name:path}", self._cdn),
                Route("/{owner}/{name}/resolve/{revision}/{path:path}", self._resolve),
            ]
        )

    # --- requests ------------------------------------------------------------------------------

    def _note(self, request: Request) -> str | None:
        header = request.headers.get("authorization", "")
        token = header.removeprefix("Bearer ") or None
        self.seen.append(
            Seen(request.url.path, request.headers["host"], request.headers.get("range"), token)
        )
        return token

    async def _whoami(self, request: Request) -> Response:
        account = self.accounts.get(self._note(request) or "")
        if account is None:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return JSONResponse({"error": "Invalid"}, 401, message)
        return JSONResponse({"type": "user", "name": account})

    async def _info(self, request: Request) -> Response:
        self._note(request)
        if self.faults["api"]:
            fault = self.faults["api"].pop(0)
            return JSONResponse({"error": "trouble"}, fault.status or 500, fault.headers)
        repository = self.repositories.get(request.path_params["repo"])
        if repository is None:
            return JSONResponse({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
        sha = repository.resolve(request.path_params["revision"])
        if sha is None:
            return JSONResponse({"error": "no"}, 404, {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[sha]
        siblings = [_sibling(path, content) for path, content in files.items()]
        name = request.path_params["repo"]
        return JSONResponse({"id": name, "sha": sha, "siblings": siblings})

    async def _resolve(self, request: Request) -> Response:
        token = self._note(request)
        params = request.path_params
        repository = self.repositories[f"{params['owner']}/{params['name']}"]
        refusal = self._refusal(repository, token)
        if refusal is not None:
            return refusal
        files = repository.commits[params["revision"]]
        if params["path"] not in files:
            return JSONResponse({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
        content = files[params["path"]]
        if not _is_large(params["path"]):
            return self._send(request, params["path"], content)
        key = hashlib.sha256(content).hexdigest()
        # Another origin, as the CDN is: no token may come along.
        return RedirectResponse(f"http://localhost:{self._port}/cdn/{key}/{params['path']}", 302)

    def _refusal(self, repository: Repository, token: str | None) -> Response | None:
        if token is not None and token not in self.accounts:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return JSONResponse({"error": "Invalid"}, 401, message)
        if not repository.gated or self.accounts.get(token or "") in self.members:
            return None
        status = 401 if token is None else 403
        return JSONResponse({"error": "gated"}, status, {"X-Error-Code": "GatedRepo"})

    async def _cdn(self, request: Request) -> Response:
        self._note(request)
        name, key = request.path_params["name"], request.path_params["key"]
        for repository in self.repositories.values():
            for files in repository.commits.values():
                content = files.get(name)
                if content is not None and hashlib.sha256(content).hexdigest() == key:
                    return self._send(request, name, content)
        return Response(status_code=404)

    # --- files ---------------------------------------------------------------------------------

    def _send(self, request: Request, path: str, content: bytes) -> Response:
        name = Path(path).name
        waiting = self.faults[path] or self.faults[name]
        fault = waiting.pop(0) if waiting else Fault()
        if fault.status is not None:
            return Response(status_code=fault.status, headers=fault.headers)
        asked = None if fault.ignores_range else request.headers.get("range")
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if begin >= len(content) > 0:
            return Response(status_code=416)
        headers = {"Content-Length": str(len(content) - begin), "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = bytes([content[0] ^ 1]) + content[1:] if fault.flip else content
        return StreamingResponse(
            self._pieces(path, body[begin:], fault), 206 if asked else 200, headers
        )

    async def _pieces(self, path: str, body: bytes, fault: Fault) -> AsyncIterator[bytes]:
        # Its own, should the server be cleared before it ends.
        sent, let_go = self.sent, self.let_go
        limit = fault.break_after if fault.hold_after is None else fault.hold_after
        until = len(body) if limit is None else min(limit, len(body))
        for begin in range(0, until, PIECE):
            piece = body[begin : min(begin + PIECE, until)]
            sent[path] += len(piece)
            yield piece
        if fault.break_after is not None:
            raise ConnectionError("the line breaks")
        if fault.hold_after is not None:
            await asyncio.to_thread(let_go.wait)
            sent[path] += len(body) - until
            yield body[until:]


def _is_large(path: str) -> bool:
    """Whether a file is kept in LFS, as .gitattributes of the hub say."""
    return path.endswith((".safetensors", ".bin"))


def _sibling(path: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False)
    sibling: dict[str, object] = {
        "rfilename": path,
        "size": len(content),
        "blobId": blob.hexdigest(),
    }
    if _is_large(path):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
    return sibling


def folder_as_files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, and what real repositories have beside them."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        **files,
        "README.md": b"# A model",
        "flux1-schnell.safetensors": b"the transformer a second time",
        "transformer/diffusion_pytorch_model.bin": b"a pickle",
        "text_encoder/model.fp16.safetensors": b"a variant",
        "code/evil.py": b"import os",
    }

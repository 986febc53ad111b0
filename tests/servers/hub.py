"""A hub on the loopback interface: the requests that its clients make, real files, broken lines.

As the real one does, it redirects large files (those of Git LFS) to another address, says their
SHA-256 beforehand, serves ranges, and offers Xet, of which it serves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.servers.listening import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: Files of at least this size are kept with Git LFS.
LFS_BYTES = 4096

#: How much of a file is written at once, in bytes.
PIECE_BYTES = 64 * 1024


class Asked(NamedTuple):
    """One request: its method and path, where it wanted to begin, and its token."""

    method: str
    path: str
    start: int
    authorization: str | None


class Hub:
    """What a hub has, and how its lines fail.

    Attributes:
        files: Content by repository and name.
        claimed_sizes: Sizes that it claims in place of the true ones, by name.
        cut_after: The bytes of content after which the next connections are cut, in turn.
        stall_after: The bytes after which every connection stalls; ``None`` for none.
        gated: Whether it asks for a token first.
        corrupt: Whether it serves other bytes than it promised.
        asked: What it was asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.claimed_sizes: dict[str, int] = {}
        self.cut_after: list[int] = []
        self.stall_after: int | None = None
        self.gated = False
        self.corrupt = False
        self.asked: list[Asked] = []
        self.url = ""

    def downloads(self) -> list[int]:
        """Where each download of content began, in order."""
        return [each.start for each in self.asked if each.method == "GET" and "/cdn/" in each.path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the client goes."""
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
            method, path, _ = head.split(" ", 2)
            found = re.search(r"(?im)^range: bytes=(\d+)-", head)
            token = re.search(r"(?im)^authorization: (.*)\r$", head)
            asked = Asked(method, path, int(found[1]) if found else 0, token[1] if token else None)
            self.asked.append(asked)
            if not await self._answer(asked, writer):
                return

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        path = asked.path.partition("?")[0]
        if self.gated and asked.authorization is None:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
            return await _reply(writer, 401, headers, b"")
        if found := re.fullmatch(r"/api/models/(.+)", path):
            return await self._describe(found[1], writer)
        if found := re.fullmatch(r"/(?:cdn/)?(.+?/.+?)/resolve/[^/]+/(.+)", path):
            content = self.files.get(found[1], {}).get(found[2])
            if content is None:
                headers = {"X-Error-Code": "EntryNotFound"}
                return await _reply(writer, 404, headers, b"", asked.method)
            if path.startswith("/cdn/"):
                return await self._content(asked, content, writer)
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{_digest(content)}"',
                "X-Linked-Size": str(len(content)),
                "ETag": f'"{_digest(content)}"',
                **(_xet(self.url, found[1], content) if len(content) >= LFS_BYTES else {}),
                # Another host, as the real one's: its clients do not follow it there blindly.
                "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn{path}",
            }
            return await _reply(writer, 302, headers, b"", asked.method)
        headers = {"X-Error-Code": "RepoNotFound"}
        return await _reply(writer, 404, headers, b"", asked.method)

    async def _describe(self, repo: str, writer: asyncio.StreamWriter) -> bool:
        if repo not in self.files:
            return await _reply(writer, 404, {"X-Error-Code": "RepoNotFound"}, b"")
        siblings = []
        for name, content in self.files[repo].items():
            size = self.claimed_sizes.get(name, len(content))
            sibling = {"rfilename": name, "size": size, "blobId": _git(content)}
            if len(content) >= LFS_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(sibling)
        body = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}
        return await _reply(
            writer, 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        )

    async def _content(self, asked: Asked, content: bytes, writer: asyncio.StreamWriter) -> bool:
        rest = content[asked.start :]
        headers = {"ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked.start:
            status = 206
            last = len(content) - 1
            headers["Content-Range"] = f"bytes {asked.start}-{last}/{len(content)}"
        if asked.method == "HEAD":
            headers["Content-Length"] = str(len(rest))
            return await _reply(writer, status, headers, None, "HEAD")
        if self.corrupt:
            rest = rest[:-1] + bytes([rest[-1] ^ 1])
        limit = self.cut_after.pop(0) if self.cut_after else len(rest)
        _write_head(writer, status, {**headers, "Content-Length": str(len(rest))})
        for begin in range(0, min(limit, len(rest)), PIECE_BYTES):
            if self.stall_after is not None and begin >= self.stall_after:
                await asyncio.Event().wait()
            writer.write(rest[begin : min(begin + PIECE_BYTES, limit)])
            await writer.drain()
        return limit >= len(rest)


@asynccontextmanager
async def hub() -> AsyncGenerator[Hub]:
    """A hub that listens; its address is what HF_ENDPOINT names."""
    served = Hub()
    async with listening(served.serve) as url:
        served.url = url
        yield served


async def _reply(
    writer: asyncio.StreamWriter,
    status: int,
    headers: dict[str, str],
    body: bytes | None,
    method: str = "GET",
) -> bool:
    if body is not None:
        headers = {**headers, "Content-Length": str(len(body))}
    _write_head(writer, status, headers)
    if body and method != "HEAD":
        writer.write(body)
    await writer.drain()
    return True


def _write_head(writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} Something", *(f"{name}: {headers[name]}" for name in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())


def _digest(content: bytes) -> str:
    """What the hub gives as the entity tag."""
    if len(content) >= LFS_BYTES:
        return hashlib.sha256(content).hexdigest()
    return _git(content)


def _xet(url: str, repo: str, content: bytes) -> dict[str, str]:
    """How the hub offers a large file also in pieces of its own; nobody has to take the offer."""
    auth = f'<{url}/api/models/{repo}/xet-read-token/{COMMIT}>; rel="xet-auth"'
    return {"X-Xet-Hash": hashlib.sha256(b"xet" + content).hexdigest(), "Link": auth}


def _git(content: bytes) -> str:
    return hashlib.sha1(
        f"blob {len(content)}\0".encode() + content, usedforsecurity=False
    ).hexdigest()

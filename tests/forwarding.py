"""What every proxy of the tests does with a request that it lets through."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from aiohttp import ClientSession, web
from yarl import URL

from deploy.local.ports import HOST

_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, whole."""

    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    headers: dict[str, str]
    """Those that are passed on."""
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


async def forward(request: web.Request, sent: bytes, backend: ClientSession, port: int) -> Answer:
    """The answer of the server at `port` to a request with the body `sent`.

    Raises aiohttp's `ClientConnectionError` when it is gone.
    """
    async with backend.request(
        request.method,
        URL(f"http://{HOST}:{port}{request.raw_path}", encoded=True),
        headers=request.headers,
        data=BytesIO(sent) if sent else None,
        skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        allow_redirects=False,
    ) as answer:
        body = await answer.read()
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_HEADERS}
    if request.method == "HEAD":
        headers["Content-Length"] = answer.headers.get("Content-Length", "0")
    return Answer(answer.status, answer.raw_headers, headers, body)

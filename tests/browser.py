"""A real browser, and a web site for it that is not ours."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from playwright.async_api import Page, async_playwright

from tests.harness import need

FLAGS = [
    "--no-sandbox",  # it has none as root
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # any name is this machine, and no question leaves it
]  # fmt: skip


@asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """A page of a new Chromium without a window; the test is skipped where there is none."""
    program = need("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield await browser.new_page()
        await browser.close()


class OtherSite:
    """Answers with a page, to `/redirect?to=` with another address for the same request (307), and to
    `/script?text=` with that script.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                query = dict(parse_qsl(urlsplit(self.path).query))
                body = query.get("text", "<!doctype html><title>another site</title><body></body>").encode()
                self.send_response(307 if "to" in query else 200)
                if "to" in query:
                    self.send_header("Location", query["to"])
                self.send_header("Content-Type", "text/javascript" if "text" in query else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

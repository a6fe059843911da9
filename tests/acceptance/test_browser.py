"""What pages of other sites can do to the server, seen from Chromium."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from playwright.async_api import Page

from tests.browser import OtherSite, chromium
from tests.harness import Server

PROGRAM = {"id": "P1", "Product_Name": "x"}

FORM = """
to => {
  document.body.innerHTML = `<form method="post" enctype="%s" target="%s" action="${to}%s">%s</form>
    <iframe name="inside"></iframe>`
  document.forms[0].submit()
}
"""
DELETE = "?operation=delete&id=P1"
FIELDS = '<input name="id" value="P1"><input name="operation" value="delete">'
JSON_AS_TEXT = """<input name='{"id": "P1", "Product_Name": "' value='"}'>"""
WRITES = {
    "a form": FORM % ("application/x-www-form-urlencoded", "inside", "", FIELDS),
    "a form in a window of its own": FORM % ("application/x-www-form-urlencoded", "_blank", "", FIELDS),
    "a form in place of the page": FORM % ("application/x-www-form-urlencoded", "_self", "", FIELDS),
    "a form in parts": FORM % ("multipart/form-data", "inside", "", FIELDS),
    "a form as text": FORM % ("text/plain", "inside", "", JSON_AS_TEXT),
    "an empty form": FORM % ("application/x-www-form-urlencoded", "inside", DELETE, ""),
    "a form of no origin": f"""
        to => {{
          const frame = document.createElement('iframe')
          frame.sandbox = 'allow-scripts allow-forms'
          frame.srcdoc = `<form method="post" action="${{to}}">{FIELDS}</form>
            <script>document.forms[0].submit()</script>`
          document.body.append(frame)
        }}""",
    "a script": """to => fetch(to, {method: 'POST', mode: 'no-cors', body: '{"id": "P1", "Product_Name": "y"}'})""",
    "a script without a body": f"to => fetch(to + '{DELETE}', {{method: 'POST', mode: 'no-cors'}})",
    "a script that hides its page": """
        to => fetch(to, {
          method: 'POST', mode: 'no-cors', referrerPolicy: 'no-referrer', body: new URLSearchParams({id: 'P1'})
        })""",
    "a script that goes on": """
        to => fetch(to, {method: 'POST', mode: 'no-cors', keepalive: true, body: new URLSearchParams({id: 'P1'})})""",
    "a beacon": f"to => navigator.sendBeacon(to + '{DELETE}')",
    "a beacon with a form": """
        to => {
          const form = new FormData()
          form.append('data', '{"id": "P1", "Product_Name": "z"}')
          navigator.sendBeacon(to, form)
        }""",
    "the ping of a link": f"""
        to => {{
          document.body.innerHTML = `<a href="#" ping="${{to}}{DELETE}">click</a>`
          document.querySelector('a').click()
        }}""",
    "a worker": f"""
        to => {{
          const script = `fetch('${{to}}{DELETE}', {{method: 'POST', mode: 'no-cors'}})`
          new Worker(URL.createObjectURL(new Blob([script])))
        }}""",
    "a script that asks leave": """
        to => fetch(to, {
          method: 'POST', headers: {'Content-Type': 'application/json', 'X-Tenant-ID': 'default'}, body: '{"id": "P1"}'
        }).catch(() => {})""",
    "a script with another method": "to => fetch(to, {method: 'DELETE'}).catch(() => {})",
}
"""How a page tries to write or delete (`to` is the address), by its name."""

ELEMENT = """
to => new Promise(done => {
  const element = document.createElement('%s')
  Object.assign(element, %s)
  element.onload = () => done('loaded')
  element.onerror = () => done('refused')
  element.%s = to
  document.body.append(element)
})
"""
READS = {
    "an image": ELEMENT % ("img", "{}", "src"),
    "a script": ELEMENT % ("script", "{}", "src"),
    "a script that asks leave": ELEMENT % ("script", "{crossOrigin: 'anonymous'}", "src"),
    "a style": ELEMENT % ("link", "{rel: 'stylesheet'}", "href"),
    "a film": ELEMENT % ("video", "{}", "src"),
    "what may be wanted next": ELEMENT % ("link", "{rel: 'prefetch'}", "href"),
    "a request": "to => fetch(to).then(() => 'loaded', () => 'refused')",
    "a request for nothing but headers": "to => fetch(to, {method: 'HEAD'}).then(() => 'loaded', () => 'refused')",
    "a stream": """
        to => new Promise(done => {
          const stream = new EventSource(to)
          stream.onopen = () => done('loaded')
          stream.onerror = () => { stream.close(); done('refused') }
        })""",
    "a web socket": """
        to => new Promise(done => {
          const socket = new WebSocket(to.replace('http', 'ws'))
          socket.onopen = () => done('loaded')
          socket.onerror = () => done('refused')
        })""",
}
"""How a page tries to read, by its name: a promise of what came of it."""

LINKS = {
    "a link": """to => { document.body.innerHTML = `<a href="${to}">click</a>`; document.querySelector('a').click() }""",
    "a link that hides where it was": """
        to => {
          document.body.innerHTML = `<a rel="noreferrer" href="${to}">click</a>`
          document.querySelector('a').click()
        }""",
    "a form that reads": """
        to => { document.body.innerHTML = `<form action="${to}"></form>`; document.forms[0].submit() }""",
    "a script": "to => { location = to }",
    "a page that leads on": """to => document.head.innerHTML = `<meta http-equiv="refresh" content="0; url=${to}">`""",
}
"""How somebody comes here from a page, by its name."""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of Chromium."""
    async with chromium() as page:
        yield page


@pytest.fixture
def site() -> Iterator[OtherSite]:
    """Somebody else's web site."""
    with OtherSite() as site:
        yield site


@pytest.fixture(scope="module")
def own_server(home: Path, installation: Any) -> Iterator[Server]:
    """A server whose default tenant, for which a form can write, has one program."""
    del installation
    tenant = f"t-{uuid.uuid4().hex[:12]}"
    with Server(home, DEFAULT_TENANT_ID=tenant) as server, server.client(tenant) as client:
        assert client.post("/v1/sync/programs", json=PROGRAM).status_code == 200
        yield server


def foreign_pages(server: Server, site: OtherSite, folder: Path) -> list[str]:
    """Pages of origins that are not the server's: of another port, of another name for the same
    machine, of another domain, and a file.
    """
    file = folder / "page.html"
    file.write_text("<!doctype html><title>a file</title><body></body>")
    assert urlsplit(server.url).hostname == "127.0.0.1"
    return [
        f"http://127.0.0.1:{site.port}/", f"http://localhost:{site.port}/", f"http://other.example:{site.port}/",
        file.as_uri(),
    ]  # fmt: skip


def refused(server: Server) -> int:
    """How many requests the server says that it refused."""
    with server.client("default") as client:
        found = re.search(r'sync_ledger_refused_total\{why="refused"\} (\S+)', client.get("/metrics").text)
    return int(float(found[1])) if found else 0


async def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for another process."""
    try:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"it never came to this: {what}")


def events(server: Server) -> list[dict[str, Any]]:
    """All that the ledger holds."""
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/v1/audit/events?payload=true").json()["items"]
    return found


async def run(page: Page, script: str, to: str) -> Any:
    """What comes of a script on a page; None where it fails."""
    return await page.evaluate(f"to => Promise.resolve(to).then({script}).catch(() => null)", to)


async def test_no_page_of_another_site_writes(
    page: Page, site: OtherSite, own_server: Server, tmp_path: Path
) -> None:
    """By whatever means a browser has: the request comes, is refused, and leaves no event."""
    held = events(own_server)
    to = f"{own_server.url}/v1/sync/programs"
    for address in foreign_pages(own_server, site, tmp_path):
        for means, script in WRITES.items():
            await page.goto(address)
            before = refused(own_server)
            await run(page, script, to)
            await until(lambda before=before: refused(own_server) > before, f"{address}: {means} is refused")
            assert events(own_server) == held, (address, means)


async def test_no_other_way_round(page: Page, site: OtherSite, own_server: Server) -> None:
    """Neither by a redirect of its own site, nor by a worker that stays when the page has gone."""
    held = events(own_server)
    to = f"{own_server.url}/v1/sync/programs{DELETE}"
    post = "fetch(%s, {method: 'POST', mode: 'no-cors'})"
    worker = f"onactivate = event => event.waitUntil({post % json.dumps(to)})"
    scripts = {
        "a redirect": f"to => {post % 'to'}",
        "a worker": "to => navigator.serviceWorker.register(to)",
    }
    addresses = {
        "a redirect": f"/redirect?to={quote(to, safe='')}",
        "a worker": f"/script?text={quote(worker, safe='')}",
    }
    for means, script in scripts.items():
        await page.goto(f"http://localhost:{site.port}/")
        before = refused(own_server)
        await run(page, script, addresses[means])
        await until(lambda before=before: refused(own_server) > before, f"{means} is refused")
        assert events(own_server) == held, means


async def test_no_page_of_another_site_reads(
    page: Page, site: OtherSite, own_server: Server, tmp_path: Path
) -> None:
    """Neither into itself nor as a frame of itself."""
    for address in foreign_pages(own_server, site, tmp_path):
        for means, script in READS.items():
            await page.goto(address)
            before = refused(own_server)
            assert await run(page, script, f"{own_server.url}/v1/programs/P1") == "refused", (address, means)
            await until(lambda before=before: refused(own_server) > before, f"{address}: {means} is refused")
        for frame in ("iframe", "embed"):
            await page.goto(address)
            async with page.expect_event("framenavigated", lambda inner: inner != page.main_frame) as shown:
                await run(page, ELEMENT % (frame, "{}", "src"), f"{own_server.url}/docs")
            assert (await shown.value).url == "chrome-error://chromewebdata/", (address, frame)
        await page.goto(address)
        assert await run(page, ELEMENT % ("object", "{}", "data"), f"{own_server.url}/docs") == "refused"


async def test_a_link_leads_here(page: Page, site: OtherSite, own_server: Server, tmp_path: Path) -> None:
    """As from web mail: to the documentation, which works, and to a record."""
    before = refused(own_server)
    for address in foreign_pages(own_server, site, tmp_path):
        for means, script in LINKS.items():
            await page.goto(address)
            async with page.expect_navigation(url=f"{own_server.url}/v1/programs/P1*") as navigation:
                await run(page, script, f"{own_server.url}/v1/programs/P1")
            answer = await navigation.value
            assert answer is not None
            assert answer.status == 200, (address, means)
            assert (await answer.json())["name"] == "x"
    await page.goto(f"http://other.example:{site.port}/")
    await run(page, LINKS["a link"], f"{own_server.url}/docs")
    await page.wait_for_selector("#operations-sync-sync_programs")
    assert refused(own_server) == before


async def test_the_documentation_may_write(page: Page, own_server: Server) -> None:
    """It is the server's own page, by whatever name somebody typed."""
    held = len(events(own_server))
    port = urlsplit(own_server.url).port
    for number, name in enumerate(("127.0.0.1", "LOCALHOST")):
        await page.goto(f"http://{name}:{port}/docs")
        operation = page.locator("#operations-sync-sync_programs")
        await operation.locator(".opblock-summary").click()
        await operation.locator(".try-out__btn").click()
        await operation.locator("textarea").fill(json.dumps({"id": f"P{number + 2}", "Product_Name": "x"}))
        async with page.expect_response("**/v1/sync/programs") as answered:
            await operation.locator(".execute").click()
        assert (await (await answered.value).json())["results"][0]["status"] == "NEW"
    assert len(events(own_server)) == held + 2


async def test_the_documentation_shows_nobody_elses(page: Page, site: OtherSite, own_server: Server) -> None:
    """A link cannot make it take its operations from another site."""
    description = quote(f"http://localhost:{site.port}/openapi.json", safe="")
    await page.goto(f"{own_server.url}/docs?url={description}&configUrl={description}")
    await page.wait_for_selector("#operations-sync-sync_programs")
    assert site.asked == []


async def test_a_name_that_is_bound_again(page: Page, own_server: Server) -> None:
    """A domain that suddenly means this machine: its page is of the same origin as the server then,
    for the browser; the server knows that it has no such name.
    """
    held = events(own_server)
    address = f"http://rebound.example:{urlsplit(own_server.url).port}"
    answer = await page.goto(f"{address}/v1/programs/P1")
    assert answer is not None
    assert answer.status == 403
    post = "to => fetch(to, {method: 'POST'}).then(answer => answer.status)"
    assert await run(page, post, f"{address}/v1/sync/programs{DELETE}") == 403
    assert events(own_server) == held

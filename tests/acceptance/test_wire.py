"""The HTTP face byte by byte: what clients send that is not quite HTTP/1.1."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.harness import Server

HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
PROGRAM = b'{"id": "P1", "Product_Name": "x"}'


class Wire:
    """A connection to a server, on which bytes are sent as they are."""

    def __init__(self, server: Server) -> None:
        address = urlsplit(server.url)
        assert address.hostname is not None
        self.socket = socket.create_connection((address.hostname, address.port or 0), timeout=60)

    def send(self, *parts: bytes) -> None:
        """Sends bytes."""
        self.socket.sendall(b"".join(parts))

    def rest(self) -> bytes:
        """What comes until the server closes the connection."""
        received = b""
        while part := self.socket.recv(65536):
            received += part
        self.socket.close()
        return received


def exchange(server: Server, *parts: bytes) -> bytes:
    """What a server answers until it closes the connection."""
    wire = Wire(server)
    wire.send(*parts)
    return wire.rest()


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the bytes after them."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    assert len(headers) == len(fields), "a header is there twice"
    return int(line.split(" ")[1]), headers, body


def assert_problem(answer: bytes, status: int) -> str:
    """The detail of an answer that is a problem like all others, and the connection's last."""
    found, headers, body = parsed(answer)
    assert found == status, answer
    assert headers["content-type"] == "application/problem+json"
    assert len(headers["x-delivery-id"]) == 32
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    detail: str = problem["detail"]
    return detail


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"FOO /v1/health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http:///v1/health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v1/health HTTP/9.9\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n" + HOST + b"a b: c\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n" + HOST + b"a: b\x00c\r\n\r\n",
        b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
        b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{xx",
    ],
)
def test_what_is_not_http(server: Server, sent: bytes) -> None:
    """400, as a problem."""
    assert assert_problem(exchange(server, sent), 400)


@pytest.mark.parametrize("target", [b"/v1/health", b"http://a/v1/health", b"localhost:1", b"a:1"])
def test_connect_is_refused_at_once(server: Server, target: bytes) -> None:
    """This server is no proxy, and whoever asks for one holds nobody up."""
    answer = exchange(server, b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))
    with server.client("t") as client:
        assert client.get("/v1/health").status_code == 200


def test_a_url_that_is_too_long(server: Server) -> None:
    """414, also where it never ends."""
    url = b"GET /v1/programs?" + b"a" * 70_000
    assert "URL" in assert_problem(exchange(server, url, b" HTTP/1.1\r\n", HOST, b"\r\n"), 414)
    assert "URL" in assert_problem(exchange(server, url), 414)


@pytest.mark.parametrize("sent", [b"a: b\r\n" * 20_000, b"a: " + b"b" * 70_000 + b"\r\n"])
def test_fields_that_are_too_long(server: Server, sent: bytes) -> None:
    """431, whether many or long."""
    start = b"GET /v1/health HTTP/1.1\r\n" + HOST
    assert "header fields" in assert_problem(exchange(server, start, sent, b"\r\n"), 431)


def test_a_field_without_an_end(server: Server) -> None:
    """It is refused while it comes; what its sender still sends is read, so that it sees why."""
    wire = Wire(server)
    wire.send(b"GET /v1/health HTTP/1.1\r\n", HOST, b"a: ")
    for _ in range(64):
        wire.send(b"b" * 8192)
    assert "header fields" in assert_problem(wire.rest(), 431)


def test_a_long_body_is_no_long_field(server: Server, tenant: str) -> None:
    """However it is cut."""
    body = b'{"id": "P1", "Product_Name": "x", "Note": "' + b"n" * 200_000 + b'"}'
    head = (
        b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + CLOSE + b"X-Tenant-ID: " + tenant.encode() + b"\r\n"
    )
    whole = exchange(server, head, b"Content-Length: %d\r\n\r\n" % len(body), body)
    assert parsed(whole)[0] == 200
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(c), c) for c in (body[i : i + 50] for i in range(0, len(body), 50))
    )
    again = exchange(server, head, b"Transfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n")
    assert json.loads(parsed(again)[2])["results"][0]["status"] == "NEW"


def test_requests_before_nonsense_have_their_answers(server: Server, tenant: str) -> None:
    """In order; the refusal comes last, and takes nobody's place."""
    head = b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + b"X-Tenant-ID: " + tenant.encode() + b"\r\n"
    post = head + b"Content-Length: %d\r\n\r\n" % len(PROGRAM) + PROGRAM
    answer = exchange(server, post, b"GET /v1/health HTTP/1.1\r\n", HOST, b"\r\n", b"nonsense\r\n\r\n")
    first, second, third = (b"HTTP/1.1 " + part for part in answer.split(b"HTTP/1.1 ")[1:])
    assert json.loads(parsed(first)[2])["results"][0]["status"] == "NEW"
    assert json.loads(parsed(second)[2]) == {"status": "healthy"}
    assert assert_problem(third, 400)
    cut = head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    answer = exchange(server, b"GET /v1/health HTTP/1.1\r\n", HOST, b"\r\n", cut)
    first, second = (b"HTTP/1.1 " + part for part in answer.split(b"HTTP/1.1 ")[1:])
    assert json.loads(parsed(first)[2]) == {"status": "healthy"}
    assert assert_problem(second, 400)


@pytest.mark.parametrize("version", [b"1.0", b"0.9"])
@pytest.mark.parametrize("query", [b"", b"?format=csv"])
def test_an_older_client_gets_no_chunks(server: Server, tenant: str, version: bytes, query: bytes) -> None:
    """Of a stream it reads what stands between the headers and the end of the connection."""
    with server.client(tenant) as client:
        client.post("/v1/sync/programs", json=[{"id": str(i), "Product_Name": "x"} for i in range(50)])
        path = "/v1/audit/export" + query.decode()
        expected = client.get(path)
    assert expected.headers["transfer-encoding"] == "chunked"
    tenant_header = b"X-Tenant-ID: " + tenant.encode() + b"\r\n"
    answer = exchange(
        server, b"GET ", path.encode(), b" HTTP/", version, b"\r\n", HOST, tenant_header, b"\r\n"
    )
    status, headers, body = parsed(answer)
    assert status == 200
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert body == expected.content


def test_an_older_client_is_not_told_to_continue(server: Server) -> None:
    """`Expect` is of HTTP/1.1; what has a length keeps it."""
    expecting = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    status, headers, body = parsed(exchange(server, b"POST /v1/sync/programs HTTP/1.0\r\n", HOST, expecting))
    assert status == 200
    assert int(headers["content-length"]) == len(body)
    newer = exchange(server, b"POST /v1/sync/programs HTTP/1.1\r\n", HOST, CLOSE, expecting)
    assert newer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
def test_an_offer_to_upgrade_is_passed_over(server: Server, tenant: str, offer: bytes) -> None:
    """As Java's client makes one with its first request: the body counts, and so does what follows."""
    fields = HOST + b"X-Tenant-ID: " + tenant.encode() + b"\r\nUpgrade: " + offer + b"\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(PROGRAM)
    post = (
        b"POST /v1/sync/programs HTTP/1.1\r\n" + fields + b"Connection: Upgrade, HTTP2-Settings\r\n" + length
    )
    again = b"GET /v1/programs/P1 HTTP/1.1\r\n" + fields + b"Connection: Upgrade, close\r\n\r\n"
    answer = exchange(server, post, PROGRAM, again)
    first, second = (b"HTTP/1.1 " + part for part in answer.split(b"HTTP/1.1 ")[1:])
    assert json.loads(parsed(first)[2])["results"][0]["status"] == "NEW"
    assert json.loads(parsed(second)[2])["zoho_id"] == "P1"


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        (b"http://localhost/v1/health", b"Host: evil.example\r\n", 200),
        (b"HTTP://[::1]:8000/v1/health?", b"", 200),
        (b"http://evil.example/v1/health", HOST, 403),
        (b"http://evil.example:8000/nothing", HOST + HOST, 403),
        (b"http://localhost@evil.example/v1/health", HOST, 403),
        (b"http://x@localhost/v1/health", HOST, 403),
        (b"http://localhost./v1/health", HOST, 403),
        (b"/v1/health", HOST + b"Host: evil.example\r\n", 403),
        (b"/v1/health", b"Host: evil.example\r\n" + HOST, 403),
        (b"/v1/health", HOST + HOST, 400),
        (b"/v1/health", b"Host:\r\n", 403),
        (b"*", b"Host: evil.example\r\n", 403),
    ],
)
def test_which_host_counts(server: Server, target: bytes, fields: bytes, status: int) -> None:
    """That of the URL, where it has one; else the one field."""
    answer = exchange(server, b"GET " + target + b" HTTP/1.1\r\n", fields, CLOSE, b"\r\n")
    assert parsed(answer)[0] == status


def test_every_answer_keeps_to_itself(server: Server, tenant: str) -> None:
    """What is not HTTP has the same headers, and no answer may be read by another site."""
    with server.client(tenant) as client:
        answers = [
            client.get(path) for path in ("/v1/health", "/docs", "/docs/assets/swagger-ui.css", "/nothing")
        ]
        answers.append(client.options("/v1/programs", headers={"Origin": server.url}))
        answers.append(
            client.post("/v1/sync/programs", content=PROGRAM, headers={"Origin": "http://a.example"})
        )
        found = [dict(answer.headers) for answer in answers]
    found.append(parsed(exchange(server, b"nonsense\r\n\r\n"))[1])
    for headers in found:
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"].upper() == "DENY"
        assert not any(name.startswith("access-control-") for name in headers)


def test_a_trailer_is_no_header(server: Server, tenant: str) -> None:
    """Fields after the body name no tenant."""
    body = b"%x\r\n%s\r\n0\r\nX-Tenant-ID: %s\r\n\r\n" % (len(PROGRAM), PROGRAM, tenant.encode())
    head = b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    assert parsed(exchange(server, head, body))[0] == 200
    with server.client(tenant) as client:
        assert client.get("/v1/programs").json()["items"] == []


def head_and_get(server: Server, tenant: str, path: str) -> list[tuple[int, dict[str, Any], bytes]]:
    """Both answers on a connection of its own each."""
    fields = HOST + CLOSE + b"X-Tenant-ID: " + tenant.encode() + b"\r\n\r\n"
    return [
        parsed(exchange(server, method, b" ", path.encode(), b" HTTP/1.1\r\n", fields))
        for method in (b"HEAD", b"GET")
    ]


def test_head_wherever_get_is(server: Server, tenant: str) -> None:
    """The same status and headers, and no body, for every route of the document and the pages;
    the document itself has no operation for it.
    """
    with server.client(tenant) as client:
        client.post("/v1/sync/students", json={"id": "STUDENT_001", "Last_Name": "N"})
        client.post("/v1/sync/enrollments", json={"id": "ENR_001", "Student": "STUDENT_001", "Class": "C"})
        paths = client.get("/openapi.json").json()["paths"]
    assert not any("head" in operations for operations in paths.values())
    gets = [
        path.replace("{entity}", "enrollment").replace("{zoho_id}", "ENR_001")
        for path, operations in paths.items()
        if "get" in operations
    ]
    pages = ["/openapi.json", "/docs", "/docs/openapi.json", "/docs/assets/swagger-ui.css"]
    bad = [
        "/nothing", "/docs/x", "/docs/assets/x", "/v1/audit/export?format=x", "/v1/audit/export?format=csv",
        "/v1/programs?limit=0", "/v1/students/STUDENT_001", "/v1/sync/nothing",
    ]  # fmt: skip
    for path in (*gets, *pages, *bad):
        head, get = head_and_get(server, tenant, path)
        for answer in (head, get):
            for changing in ("date", "x-delivery-id"):
                answer[1].pop(changing, None)
        if path in ("/metrics", "/v1/ready"):  # they tell of this process now: their length may change
            head[1].pop("content-length")
            get[1].pop("content-length")
        assert head[:2] == get[:2], path
        assert head[2] == b"", path
        assert get[2] or path == "/v1/audit/export", path


def test_head_is_named_where_get_is_allowed(server: Server, tenant: str) -> None:
    """And nowhere else: records are sent with POST alone."""
    with server.client(tenant) as client:
        assert client.delete("/v1/programs").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.options("/v1/programs").headers["allow"] == "GET, HEAD, OPTIONS"
        for answer in (client.head("/v1/sync/programs"), client.get("/v1/sync/programs")):
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_head_for_an_older_client(server: Server, tenant: str) -> None:
    """No word of chunks in it."""
    answer = exchange(server, b"HEAD /v1/audit/export HTTP/1.0\r\n", HOST, b"\r\n")
    status, headers, body = parsed(answer)
    assert (status, body) == (200, b"")
    assert "transfer-encoding" not in headers


ODD = [
    b"%00", b"a%00b", b"%ff", b"%C3%28", b"%ed%a0%80", b"%", b"%zz", b"..", b"%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"a%0d%0ab", b"%D9%A3", b"a" * 300, b"a" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:12].decode())
def test_odd_values_anywhere(server: Server, tenant: str, odd: bytes) -> None:
    """In every part of a path and every parameter of the document: never an error of ours."""
    with server.client(tenant) as client:
        paths = client.get("/openapi.json").json()["paths"]
    targets = [b"/" + odd, b"/v1/" + odd, b"/docs/" + odd, b"/v1/audit/records/" + odd]
    for path, operations in paths.items():
        if "get" not in operations:
            continue
        entity = path.replace("{entity}", "program").encode()
        filled = entity.replace(b"{zoho_id}", b"P1")
        names = [p["name"].encode() for p in operations["get"].get("parameters", []) if p["in"] == "query"]
        targets += [filled + b"?" + name + b"=" + odd for name in (*names, b"")]
        targets.append(filled + b"?" + odd + b"=1")
        if b"{zoho_id}" in entity:
            targets.append(entity.replace(b"{zoho_id}", odd))
    fields = HOST + CLOSE + b"X-Tenant-ID: " + tenant.encode() + b"\r\n\r\n"
    for target in targets:
        answer = exchange(server, b"GET ", target, b" HTTP/1.1\r\n", fields)
        status, headers, _ = parsed(answer)
        assert status in (200, 400, 404), target[:100]
        if status != 200:
            assert headers["content-type"] == "application/problem+json", target[:100]
    missing = exchange(server, b"GET /docs/assets/", odd, b" HTTP/1.1\r\n", fields)
    assert assert_problem(missing, 404)

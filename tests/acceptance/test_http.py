"""The HTTP face beyond the examples: headers, limits, errors, lists, audit, documents."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.harness import Server, results, statuses

PROGRAM = {"id": "P1", "Product_Name": "x", "Price": "5"}


@pytest.fixture
def client(server: Server, tenant: str) -> Any:
    """A client of a fresh tenant."""
    with server.client(tenant) as client:
        yield client


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    detail: str = body["detail"]
    return detail


def test_every_answer_names_its_delivery(client: httpx.Client) -> None:
    """And a replay names the delivery that was recorded."""
    first = client.post("/v1/sync/programs", json=PROGRAM)
    again = client.post("/v1/sync/programs", json=PROGRAM)
    bad = client.post("/v1/sync/programs", content=b"{")
    assert first.headers["x-delivery-id"] == again.headers["x-delivery-id"]
    assert bad.headers["x-delivery-id"]
    [item] = client.get("/v1/audit/events").json()["items"]
    assert item["delivery_id"] == first.headers["x-delivery-id"]
    assert client.get(f"/v1/audit/events?delivery_id={item['delivery_id']}").json()["items"] == [item]


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "a/b", "\u00e9"])
def test_bad_tenant(server: Server, name: str) -> None:
    """400 before anything is read or stored, on every endpoint."""
    headers = [(b"x-tenant-id", name.encode())]
    with httpx.Client(base_url=server.url) as client:
        for method, path in (("POST", "/v1/sync/programs"), ("GET", "/v1/programs")):
            response = client.request(method, path, headers=headers, content=b"{}")
            assert "X-Tenant-ID" in problem(response, 400)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9"])
def test_bad_key(client: httpx.Client, key: str) -> None:
    """An idempotency key is visible ASCII."""
    response = client.post("/v1/sync/programs", json=PROGRAM, headers=[(b"x-idempotency-key", key.encode())])
    assert "X-Idempotency-Key" in problem(response, 400)


def test_key_for_another_body(client: httpx.Client) -> None:
    """422, and nothing of the second body is stored."""
    headers = {"X-Idempotency-Key": "k"}
    client.post("/v1/sync/programs", json=PROGRAM, headers=headers)
    other = client.post("/v1/sync/programs", json={**PROGRAM, "Price": "6"}, headers=headers)
    assert "X-Idempotency-Key" in problem(other, 422)
    query = client.post("/v1/sync/programs?a=1", json=PROGRAM, headers=headers)
    assert problem(query, 422)
    assert len(client.get("/v1/audit/events").json()["items"]) == 1


def test_a_header_key_replays_whatever_happened_since(client: httpx.Client) -> None:
    """Only a derived key looks at what became of the records."""
    headers = {"X-Idempotency-Key": "k"}
    first = client.post("/v1/sync/programs", json=PROGRAM, headers=headers)
    client.post("/v1/sync/programs", json={**PROGRAM, "Price": "6"})
    again = client.post("/v1/sync/programs", json=PROGRAM, headers=headers)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


def test_a_release_ends_a_derived_replay(client: httpx.Client) -> None:
    """An enrollment that was freed is answered anew, as it is now."""
    enrollment = {"id": "E", "Student": "S", "Class": "C"}
    assert statuses(client.post("/v1/sync/enrollments", json=enrollment)) == ["SKIPPED"]
    again = client.post("/v1/sync/enrollments", json=enrollment)
    assert again.headers["idempotency-replayed"] == "true"
    client.post("/v1/sync/students", json={"id": "S"})
    client.post("/v1/sync/classes", json={"id": "C", "Class_Name": "A"})
    assert statuses(client.post("/v1/sync/enrollments", json=enrollment)) == ["UNCHANGED"]


def test_a_header_key_holds_for_an_empty_delivery(client: httpx.Client) -> None:
    """An empty list is a delivery like any other: replayed, and in conflict with another body."""
    headers = {"X-Idempotency-Key": "k1"}
    empty, other = {"data": []}, {"id": "P1", "Product_Name": "x"}
    assert client.post("/v1/sync/programs", json=empty, headers=headers).json()["results"] == []
    again = client.post("/v1/sync/programs", json=empty, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert client.post("/v1/sync/programs", json=other, headers=headers).status_code == 422
    headers = {"X-Idempotency-Key": "k2"}
    assert statuses(client.post("/v1/sync/programs", json=other, headers=headers)) == ["NEW"]
    assert client.post("/v1/sync/programs", json=empty, headers=headers).status_code == 422


def test_released_is_what_is_free_in_the_end(client: httpx.Client) -> None:
    """An enrollment that a request frees and makes wait again is not named; one that it frees
    twice is named once.
    """
    client.post("/v1/sync/students", json={"id": "S"})
    client.post("/v1/sync/enrollments", json={"id": "E", "Student": "S", "Class": "K"})
    here, gone = {"id": "K", "Class_Name": "x"}, {"id": "K", "Record_Status__s": 0}
    assert "released" not in client.post("/v1/sync/classes", json=[here, gone]).json()
    answer = client.post("/v1/sync/classes", json=[here, gone, here]).json()
    assert [entry["zoho_enrollment_id"] for entry in answer["released"]] == ["E"]


def test_limits(home: Any) -> None:
    """413 names the limit; nothing is stored."""
    tenant = f"t-{uuid.uuid4().hex[:8]}"
    with Server(home, MAX_BODY_BYTES="2000", MAX_RECORDS="3") as server, server.client(tenant) as client:
        many = client.post("/v1/sync/programs", json=[{"id": str(i)} for i in range(4)])
        assert "MAX_RECORDS" in problem(many, 413)
        large = client.post("/v1/sync/programs", json={**PROGRAM, "x": "y" * 2000})
        assert "MAX_BODY_BYTES" in problem(large, 413)
        chunks = (b"x" * 500 for _ in range(5))
        streamed = client.post("/v1/sync/programs", content=chunks)
        assert "MAX_BODY_BYTES" in problem(streamed, 413)
        assert client.get("/v1/audit/events").json()["items"] == []


def test_only_this_machine(client: httpx.Client) -> None:
    """Without keys a proxied request, or one for another host, is refused."""
    for headers in ({"X-Forwarded-For": "1.2.3.4"}, {"Host": "evil.example"}):
        assert "loopback" in problem(client.get("/v1/programs", headers=headers), 403)
        refused = client.post("/v1/sync/programs", json=PROGRAM, headers=headers)
        assert problem(refused, 403)
        assert refused.headers["x-delivery-id"]
    assert client.get("/v1/programs", headers={"Host": "LOCALHOST:1"}).status_code == 200
    assert client.get("/v1/programs", headers={"Host": "[::1]:8000"}).status_code == 200


REFUSED = [
    {"Host": "evil.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Forwarded": "for=a"}, {"X-Real-IP": "::1"},
    {"Via": "1.1 a"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
]  # fmt: skip


def test_refused_whatever_it_asks_for(client: httpx.Client) -> None:
    """Every address, known or not, by every method, with the same answer; and nothing is stored."""
    known = [path.replace("{entity}", "program") for path in client.get("/openapi.json").json()["paths"]]
    pages = ["/openapi.json", "/docs", "/docs/assets/swagger-ui.css", "/docs/x", "/", "/nothing"]
    client.post("/v1/sync/programs", json=PROGRAM)
    for path in (*known, *pages):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            for headers in REFUSED:
                answer = client.request(
                    method, path, headers=headers, params={"operation": "delete", "id": "P1"}
                )
                assert answer.status_code == 403, (method, path, headers)
                assert answer.headers["x-delivery-id"]
                assert answer.headers["content-type"] == "application/problem+json"
                assert bool(answer.content) == (method != "HEAD")
    [event] = client.get("/v1/audit/events").json()["items"]
    assert event["status"] == "NEW"


def test_an_own_page_and_a_link(client: httpx.Client) -> None:
    """They are as good as no page at all."""
    own = {
        "Origin": str(client.base_url).rstrip("/"),
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
    }
    assert statuses(client.post("/v1/sync/programs", json=PROGRAM, headers=own)) == ["NEW"]
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for path in ("/docs", "/v1/programs/P1", "/v1/audit/export"):
        for headers in (own, link):
            assert client.get(path, headers=headers).status_code == 200
            assert client.head(path, headers=headers).status_code == 200
    assert problem(client.post("/v1/sync/programs", headers=link), 403)


@pytest.mark.parametrize(
    "path",
    ["/v1/programs?colour=red", "/v1/programs?limit=0", "/v1/programs?limit=1001",
     "/v1/programs?limit=x", "/v1/programs?state=gone", "/v1/programs?cursor=%21",
     "/v1/programs/P1?x=1", "/v1/audit/events?entity=unit", "/v1/audit/events?from=yesterday",
     "/v1/audit/events?status=FINE", "/v1/audit/events?source=fax", "/v1/audit/events?after=-1",
     "/v1/audit/events?payload=yes", "/v1/audit/deferred?x=1", "/v1/programs?limit=1&limit=2",
     "/v1/audit/events?cursor=e30", "/v1/programs?cursor=Ilx1MDAwMCI",
     "/v1/audit/events?cursor=OTIyMzM3MjAzNjg1NDc3NTgwOA", "/v1/audit/deferred?cursor=WzEsMTg0NDY3NDQwNzM3MDk1NTE2MTYsIngiXQ",
     "/v1/audit/deferred?cursor=Wy0xLDIsIngiXQ", "/v1/audit/events?from=2026-01-01T00:00:00",
     "/v1/programs?limit=\u0663", "/v1/programs?limit=\u00b2", "/v1/programs?limit=1_0",
     "/v1/programs?limit=%2B1", "/v1/programs?at_position=\u0663", "/v1/programs/P1?at_position=\u0663",
     "/v1/audit/events?after=\u0663", "/v1/audit/events?limit=\uff13", "/v1/audit/export?after=\u0663",
     "/v1/audit/deferred?limit=\u0663", "/v1/audit/records/program/P1?limit=\u0663",
     "/v1/audit/events?from=\u0662026-01-01T00:00:00Z", "/v1/audit/summary?to=2026-01-0\u0661T00:00:00Z",
     "/v1/programs?as_of=2026-01-01T00:00:00.\u0663Z"],
)  # fmt: skip
def test_bad_parameters(client: httpx.Client, path: str) -> None:
    """400, naming the parameter."""
    assert len(problem(client.get(path), 400)) > 10


def test_unknown_things(client: httpx.Client) -> None:
    """404 and 405 are problems too."""
    assert "'X'" in problem(client.get("/v1/programs/X"), 404)
    assert problem(client.get("/v1/nothing"), 404)
    assert problem(client.get("/nothing"), 404)
    assert problem(client.get("/v1/sync/programs"), 405)
    assert problem(client.delete("/v1/programs/X"), 405)
    assert problem(client.get("/docs/nothing"), 404)
    assert problem(client.get("/docs/assets"), 404)


def test_every_error_names_a_delivery(client: httpx.Client) -> None:
    """Whoever asks why a request failed has something to name, whatever refused it."""
    for path in ("/v1/nothing", "/v1/programs/X", "/v1/programs?limit=0", "/docs/assets/x", "/v1/sync/x"):
        for method in ("GET", "HEAD", "DELETE"):
            response = client.request(method, path)
            assert len(response.headers["x-delivery-id"]) == 32, (method, path)


@pytest.mark.parametrize("zoho_id", ["a/b c", "a//b", "/a", "a/", "x%2Fy", "\u0644?#&=+", "a" * 255, ".."])
def test_odd_ids(client: httpx.Client, zoho_id: str) -> None:
    """Whatever id is accepted can be asked for."""
    client.post("/v1/sync/programs", json={"id": zoho_id, "Product_Name": "x"})
    response = client.get(f"/v1/programs/{quote(zoho_id, safe='')}")
    if zoho_id == "..":  # every client resolves it before it asks
        assert client.get("/v1/audit/events?zoho_id=..").json()["items"][0]["zoho_id"] == ".."
    else:
        assert response.json()["zoho_id"] == zoho_id


def test_pages_and_order(client: httpx.Client) -> None:
    """Lists are ordered bytewise and paged without repeats or gaps."""
    ids = ["a", "B", "10", "9", "\u00e9", "Z", "~", "\u0628"]
    client.post("/v1/sync/programs", json=[{"id": i, "Product_Name": "x"} for i in ids])
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/programs?limit=3{cursor and f'&cursor={cursor}'}").json()
        seen += [item["zoho_id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == sorted(ids, key=lambda i: i.encode())


def test_states(client: httpx.Client) -> None:
    """Each state has its list; by id every one of them answers 200."""
    client.post("/v1/sync/students", json=[{"id": "S1"}, {"id": "S2"}, {"id": "S2", "operation": "delete"}])
    client.post("/v1/sync/enrollments", json=[{"id": "E", "Student": "S1", "Class": "C"}, {"id": "bad"}])
    listed = {
        state: [i["zoho_id"] for i in client.get(f"/v1/students?state={state}").json()["items"]]
        for state in ("active", "waiting", "deleted", "all")
    }
    assert listed == {"active": ["S1"], "waiting": [], "deleted": ["S2"], "all": ["S1", "S2"]}
    gone = client.get("/v1/students/S2").json()
    assert gone["state"] == "deleted"
    assert gone["deleted_at"].endswith("Z")
    waiting = client.get("/v1/enrollments?state=waiting").json()["items"]
    assert waiting[0]["waiting_for"] == [{"entity": "class", "zoho_id": "C"}]
    assert waiting[0]["moodle_status"] is None
    assert client.get("/v1/enrollments/bad").status_code == 404
    deferred = client.get("/v1/audit/deferred?limit=1").json()
    assert [(i["zoho_id"], i["position"]) for i in deferred["items"]] == [("E", 4)]


def test_deferred_pages(client: httpx.Client) -> None:
    """Oldest first, page by page."""
    enrollments = [{"id": f"E{i}", "Student": "S", "Class": "C"} for i in range(5)]
    for enrollment in reversed(enrollments):
        client.post("/v1/sync/enrollments", json=enrollment)
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/audit/deferred?limit=2{cursor and f'&cursor={cursor}'}").json()
        seen += [item["zoho_id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == ["E4", "E3", "E2", "E1", "E0"]


def test_audit_filters(client: httpx.Client) -> None:
    """Every filter narrows, alone and together."""
    client.post("/v1/sync/programs", json=[PROGRAM, {"id": "P2"}, {**PROGRAM, "Price": "6"}])
    client.post("/v1/sync/students", json={"id": "P1", "Last_Name": "N"})
    items = client.get("/v1/audit/events").json()["items"]
    assert [i["status"] for i in items] == ["NEW", "INVALID", "UPDATED", "NEW"]

    def positions(query: str) -> list[int]:
        return [i["position"] for i in client.get(f"/v1/audit/events?{query}").json()["items"]]

    second, third = items[1]["recorded_at"], items[2]["recorded_at"]
    assert positions("entity=program") == [1, 2, 3]
    assert positions("zoho_id=P1") == [1, 3, 4]
    assert positions("zoho_id=P1&entity=program") == [1, 3]
    assert positions("zoho_id=P1&status=UPDATED") == [3]
    assert positions("status=NEW") == [1, 4]
    assert positions("reason=stale") == []
    assert positions("source=sync&after=2") == [3, 4]
    assert positions("source=moodle") == []
    assert positions(f"from={second}") == [2, 3, 4]
    assert positions(f"from={second}&to={third}") == [2]
    assert positions(f"to={third}&entity=program") == [1, 2]
    assert positions("from=2999-01-01T00:00:00Z") == []
    assert items[1]["errors"] == [{"field": "name", "problem": "missing"}]
    assert items[2]["changes"] == {"price": {"old": "5.00", "new": "6.00"}}
    first = client.get("/v1/audit/events?limit=3").json()
    rest = client.get(f"/v1/audit/events?cursor={first['next']}").json()
    assert first["items"] + rest["items"] == items
    with_payload = client.get("/v1/audit/events?payload=true&entity=student").json()["items"]
    assert with_payload[0]["payload"] == {"id": "P1", "Last_Name": "N"}


def test_nothing_in_an_error_repeats_a_value(client: httpx.Client) -> None:
    """Errors and warnings name the field and never quote what was in it."""
    response = client.post(
        "/v1/sync/students",
        json=[{"id": 1.5, "Last_Name": "Nasser"}, {"id": "1", "Email": {"secret": "layla@x"}}],
    )
    assert "Nasser" not in response.text
    assert "layla" not in response.text


def test_empty_and_mixed_payloads(client: httpx.Client) -> None:
    """An empty list is a success; bad records do not spoil good ones."""
    assert results(client.post("/v1/sync/programs", json={"data": []})) == []
    mixed = client.post("/v1/sync/programs", json=[PROGRAM, 7, {**PROGRAM, "id": "x" * 300}])
    assert statuses(mixed) == ["NEW", "INVALID", "INVALID"]
    assert [r["position"] for r in mixed.json()["results"]] == [1, 2, 3]


def test_operations(client: httpx.Client) -> None:
    """Health, readiness, metrics, documents with local assets only."""
    assert client.get("/v1/health").json() == {"status": "healthy"}
    degraded = client.get("/v1/ready").json()["degraded"]
    assert [d for d in degraded if d["part"] != "statuses"] == []  # those are of other tests' tenants
    assert "sync_ledger_records_total" in client.get("/metrics").text
    page = client.get("/docs").text
    assert "https://" not in page.split("<script>")[0]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui-standalone-preset.js"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200
    document = client.get("/openapi.json").json()
    operations = [o for path in document["paths"].values() for o in path.values() if isinstance(o, dict)]
    assert all(operation["operationId"] for operation in operations)
    for path, methods in document["paths"].items():
        if path.startswith("/v1/") and path not in ("/v1/health", "/v1/ready"):
            operation = next(iter(methods.values()))
            assert "X-Tenant-ID" in {p["name"] for p in operation["parameters"]}, path
            assert list(operation["responses"]["400"]["content"]) == ["application/problem+json"], path
    for plural in ("students", "programs", "classes", "enrollments"):
        post = document["paths"][f"/v1/sync/{plural}"]["post"]
        example = post["requestBody"]["content"]["application/json"]["examples"]
        body = next(iter(example.values()))["value"]
        assert statuses(client.post(f"/v1/sync/{plural}", json=body))[0] in {"NEW", "SKIPPED"}


def test_json_exactness(client: httpx.Client) -> None:
    """Digits survive from the request to the state, however they are written."""
    body = b'{"id": 3652397000000186017, "Product_Name": "x", "Price": 12345678901234567890.10}'
    client.post("/v1/sync/programs", content=body)
    item = client.get("/v1/programs/3652397000000186017").json()
    assert item["price"] == "12345678901234567890.10"
    stored = client.get("/v1/audit/events?payload=true").text
    assert "12345678901234567890.10" in stored
    assert json.loads(stored)["items"][0]["zoho_id"] == "3652397000000186017"

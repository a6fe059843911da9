"""The store passes the test cases that the `eventsourcing` library ships for recorders."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any, ClassVar
from uuid import UUID

import pytest
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, Mapper, StoredEvent, Tracking
from eventsourcing.popo import POPOTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)

from ledger.installation import Installation
from ledger.recorder import LedgerRecorder
from tests.harness import Server


class _Recorders:
    """Makes recorders of fresh tenants and closes them after each test."""

    installation: ClassVar[Installation]

    @pytest.fixture(autouse=True)
    def _installed(self, installation: Installation) -> None:
        type(self).installation = installation

    def create_recorder(self) -> LedgerRecorder:
        recorder = LedgerRecorder(
            self.installation.application,
            f"es-{uuid.uuid4().hex[:12]}",
            self.installation.master_key,
            originator_id=UUID,
        )
        self.addCleanup(recorder.close)  # type: ignore[attr-defined]
        return recorder


class TestApplicationRecorder(_Recorders, ApplicationRecorderTestCase[LedgerRecorder]):
    """Contiguous positions, unique stream versions, selection."""

    def test_insert_subscribe(self) -> None:
        """The library's subscription, by polling."""
        self.optional_test_insert_subscribe()


class TestProcessRecorder(_Recorders, ProcessRecorderTestCase):
    """Events and tracking in one transaction."""


class TestTrackingRecorder(_Recorders, TrackingRecorderTestCase):
    """Tracking grows and never goes back."""


class TestNonInterleaving(_Recorders, NonInterleavingNotificationIDsBaseCase):
    """Two batches at once never interleave their positions."""


class NotificationMapper(Mapper[str]):
    """Hands events on as they are stored: what is sealed stays sealed."""

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """The notification itself."""
        return stored_event


class LedgerFactory(InfrastructureFactory[POPOTrackingRecorder]):
    """What an application of the library is given: this ledger, for reading."""

    recorder: ClassVar[LedgerRecorder]

    def application_recorder(self) -> LedgerRecorder:
        """The tenant's events."""
        return self.recorder

    aggregate_recorder = process_recorder = tracking_recorder = application_recorder


class Counts(POPOTrackingRecorder):
    """Events by entity."""

    def __init__(self) -> None:
        super().__init__()
        self.events: Counter[str] = Counter()


class Counting(Projection[Counts]):
    """A stock projection."""

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Counts by the first word of the stream's name."""
        self.view.events[str(domain_event.originator_id).partition("-")[0]] += 1
        self.view.insert_tracking(tracking)


def test_a_stock_projection_runner(server: Server, installation: Installation, tenant: str) -> None:
    """It counts what `/v1/audit/summary` counts, over a ledger that was filled through HTTP."""
    with server.client(tenant) as client:
        for number in range(20):
            client.post("/v1/sync/students", json=[{"id": f"S{number % 3}", "Last_Name": str(number)}])
            client.post("/v1/sync/programs", json=[{"id": "P"}, {"id": f"P{number}", "Product_Name": "x"}])
        items = client.get("/v1/audit/summary").json()["items"]
    LedgerFactory.recorder = LedgerRecorder(installation.application, tenant, installation.master_key)
    here = f"{__name__}:"
    environment = {
        "APPLICATION_PERSISTENCE_MODULE": f"{here}LedgerFactory",
        "APPLICATION_MAPPER_TOPIC": f"{here}NotificationMapper",
        "TRACKING_RECORDER_TOPIC": f"{here}Counts",
    }
    runner = ProjectionRunner(
        application_class=Application, projection_class=Counting, view_class=Counts, env=environment
    )
    with runner:
        runner.wait(LedgerFactory.recorder.max_notification_id(), timeout=60)
        counted = runner.projection.view.events
    LedgerFactory.recorder.close()
    expected: Counter[str] = Counter()
    for item in items:
        expected[item["entity"]] += item["count"]
    assert counted == expected == {"student": 20, "program": 40}

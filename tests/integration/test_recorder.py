"""The store passes the test cases that the `eventsourcing` library ships for recorders."""

from __future__ import annotations

import uuid
from typing import ClassVar
from uuid import UUID

import pytest
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)

from ledger.installation import Installation
from ledger.recorder import LedgerRecorder


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

"""The store as a synchronous recorder of the `eventsourcing` library.

For reading with the library's own tools (a stock `ProjectionRunner`, say); the
product itself appends through lanes. Each recorder runs its coroutines on a thread
of its own and may be called from many threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.persistence import (
    ApplicationRecorder,
    ListenNotifySubscription,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)

from ledger.database import ConnectionSettings, Database
from ledger.store import EventStore
from ledger.vault import MasterKey

_T = TypeVar("_T")
_POLL_SECONDS = 0.2


class LedgerRecorder(ProcessRecorder):
    """One tenant's events as a `ProcessRecorder`. Close it when done."""

    def __init__(
        self,
        settings: ConnectionSettings,
        tenant_id: str,
        master_key: MasterKey,
        originator_id: Callable[[str], UUID | str] = str,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._database = Database(settings, size=4)
        self._store = EventStore(self._database, tenant_id, master_key)
        self._originator_id = originator_id
        self._run(self._database.open())

    def close(self) -> None:
        """Closes the connections and ends the thread."""
        self._run(self._database.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Appends events, and with `tracking` how far a follower has come."""
        tracking: Tracking | None = kwargs.get("tracking")
        return self._run(self._store.insert_events(stored_events, tracking))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The events of one stream by version."""
        found = self._run(
            self._store.select_events(str(originator_id), gt=gt, lte=lte, desc=desc, limit=limit)
        )
        return [
            StoredEvent(self._originator_id(str(e.originator_id)), e.originator_version, e.topic, e.state)
            for e in found
        ]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Events by position; a gap would raise, since positions are contiguous."""
        found = self._run(
            self._store.select_notifications(
                start, limit, stop, topics, inclusive_of_start=inclusive_of_start
            )
        )
        return [
            Notification(
                self._originator_id(str(n.originator_id)), n.originator_version, n.topic, n.state, n.id
            )
            for n in found
        ]

    def max_notification_id(self) -> int | None:
        """The newest position."""
        return self._run(self._store.max_notification_id())

    def insert_tracking(self, tracking: Tracking) -> None:
        """Moves a follower on."""
        self._run(self._store.insert_tracking(tracking))

    def max_tracking_id(self, application_name: str) -> int | None:
        """How far a follower has come."""
        return self._run(self._store.max_tracking_id(application_name))

    def has_tracking_id(self, application_name: str, notification_id: int | None) -> bool:
        """Whether a follower has come that far."""
        return self._run(self._store.has_tracking_id(application_name, notification_id))

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Events as they come. Polled: a poll always delivers, a notification may not."""
        return _PollingSubscription(self, gt, topics)


class _PollingSubscription(ListenNotifySubscription[ApplicationRecorder]):
    def __init__(self, recorder: LedgerRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt=gt, topics=topics)
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self._has_been_notified.set()

    def stop(self) -> None:
        """Ends the iteration."""
        self._stopping.set()
        super().stop()

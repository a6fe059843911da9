"""What can go wrong in ways that a caller must tell apart."""


class ConfigurationError(Exception):
    """A setting is wrong or missing. The text is one line and names the variable."""


class DatabaseAwayError(Exception):
    """The database cannot be reached, or the connection broke before the outcome was known."""


class NotRecordedError(DatabaseAwayError):
    """The database answers, but this delivery could not be recorded; the server's log says why."""


class DamagedError(Exception):
    """Something stored cannot be read: it was altered, or what reads it is gone. The text names it."""


class MissingEventError(Exception):
    """The ledger lacks an event that its head or its neighbours prove: it was removed."""

    def __init__(self, tenant_id: str, position: int) -> None:
        super().__init__(f"position {position} of tenant {tenant_id} is missing: run sync-ledger verify")


class OtherVersionError(Exception):
    """A tenant's read models are of another version of the inline projection: a process
    with an older one must not write, one with a newer one rebuilds them first.
    """

    def __init__(self, tenant_id: str, found: int, own: int) -> None:
        super().__init__(f"the read models of {tenant_id} are of version {found}, this process has {own}")
        self.tenant_id = tenant_id
        self.is_newer = found > own


class QueueFullError(Exception):
    """A tenant's queue holds as much as it may."""


class BusyError(Exception):
    """There is no time for a request now. The text says what to do."""


class KeyConflictError(Exception):
    """An idempotency key was used before for another body."""


class LostAnswerError(Exception):
    """The answer that was remembered under an idempotency key cannot be read."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id


class KeyInFlightError(Exception):
    """The first request under this idempotency key was not answered in time."""


class UnreadableBodyError(Exception):
    """A request body that cannot be read as a whole. The text says why."""


class TooLargeError(Exception):
    """A request body over the limit of bytes or records. The text names the limit."""

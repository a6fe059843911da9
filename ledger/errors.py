"""What can go wrong in ways that a caller must tell apart."""


class ConfigurationError(Exception):
    """A setting is wrong or missing. The text is one line and names the variable."""


class DatabaseAwayError(Exception):
    """The database cannot be reached, or the connection broke before the outcome was known."""


class QueueFullError(Exception):
    """A tenant's queue holds as much as it may."""


class KeyConflictError(Exception):
    """An idempotency key was used before for another body."""


class KeyInFlightError(Exception):
    """The first request under this idempotency key was not answered in time."""


class UnreadableBodyError(Exception):
    """A request body that cannot be read as a whole. The text says why."""


class TooLargeError(Exception):
    """A request body over the limit of bytes or records. The text names the limit."""

"""The command line: `sync-ledger`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from ledger import settings as configuration
from ledger.errors import ConfigurationError, DatabaseAwayError

app = App(
    name="sync-ledger",
    help="Carries a college's data from Zoho CRM to Moodle, and can prove it.",
    result_action="return_value",
)


@app.command
def serve(
    *,
    host: Annotated[str, Parameter(help="localhost (both 127.0.0.1 and ::1) or one of them")] = "localhost",
    port: Annotated[int, Parameter(help="TCP port")] = 8000,
    workers: Annotated[int, Parameter(help="server processes")] = 1,
) -> int:
    """Serve the HTTP endpoints until Ctrl-C or SIGTERM.

    Example: sync-ledger serve --port 8001 --workers 2
    """
    from scripts import server

    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port is {port}: use 1 to 65535")
    if workers < 1:
        raise ConfigurationError(f"--workers is {workers}: use 1 or more")
    return server.serve(configuration.load(), host, port, workers)


def main() -> None:
    """Runs one command. Exit 0 done, 1 failed, 130 Ctrl-C; errors are one line on stderr."""
    try:
        code = app(exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        code = 130
    except (ConfigurationError, DatabaseAwayError) as error:
        print(f"sync-ledger: {error}", file=sys.stderr)
        code = 1
    except Exception as error:  # noqa: BLE001  (a traceback is not for the people who run this)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"sync-ledger: {lines[0]}", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

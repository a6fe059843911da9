"""The command line: `sync-ledger`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ledger import settings as configuration
from ledger.errors import ConfigurationError
from scripts.options import Whole
from scripts.streams import OutputError, open_standard_streams

Tenant = Annotated[str | None, Parameter(help="one college (default: all of them)")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON document")]

app = App(
    name="sync-ledger",
    help="Carries a college's data from Zoho CRM to Moodle, and can prove it.\n\n"
    "Example: sync-ledger serve --port 8001",
    result_action="return_value",
    version=importlib.metadata.version("sync-ledger"),
)
app.command(
    "scripts.audit:app",
    name="audit",
    help="Ask what happened, when, and why.\n\nExample: sync-ledger audit explain ENR_001 --tenant amman",
)
app.command(
    "scripts.moodle:app",
    name="moodle",
    help="Bring a Moodle to the state that the ledger asks for.\n\nExample: sync-ledger moodle plan",
)


@app.command
def serve(
    *,
    host: Annotated[str, Parameter(help="localhost (both 127.0.0.1 and ::1) or one of them")] = "localhost",
    port: Annotated[Whole, Parameter(help="TCP port")] = 8000,
    workers: Annotated[Whole, Parameter(help="server processes")] = 1,
    moodle_worker: Annotated[
        bool, Parameter(help="work on the colleges' Moodles, too (else: sync-ledger moodle worker)")
    ] = True,
) -> int:
    """Serve the HTTP endpoints until Ctrl-C or SIGTERM.

    Example: sync-ledger serve --port 8001 --workers 2
    """
    from scripts import server

    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port is {port}: use 1 to 65535")
    if workers < 1:
        raise ConfigurationError(f"--workers is {workers}: use 1 or more")
    return server.serve(configuration.load(), host, port, workers, moodle_worker=moodle_worker)


@app.command
def replay(
    *,
    projection: Annotated[
        Literal["state", "summary"] | None, Parameter(help="one of them alone (state carries summary)")
    ] = None,
    tenant: Tenant = None,
    check: Annotated[
        bool, Parameter(negative="", help="compare with the live rows instead; exit 1 where they differ")
    ] = False,
    parked: Annotated[
        bool, Parameter(negative="", help="apply parked events again, at their positions")
    ] = False,
    jobs: Annotated[Whole | None, Parameter(help="tenants at once (default: processors)")] = None,
    json: Json = False,
) -> int:
    """Rebuild read models from the events beside the live ones, then switch; traffic goes on.

    An event on which a handler failed is parked: recorded, but not applied. A rebuild leaves it
    out unless --parked asks for it, once the handler is mended.

    Example: sync-ledger replay --tenant amman --check
    """
    from scripts.opened import CommandError, run
    from scripts.replaying import Work, replay_all

    if check and parked:
        raise CommandError("--check compares and --parked changes: use one of them")
    if parked and projection == "summary":
        raise CommandError("--parked applies the events of every projection: leave --projection out")
    if jobs is not None and jobs < 1:
        raise CommandError(f"--jobs is {jobs}: use 1 or more")
    work = Work(projection, check, parked)
    return run(lambda ledger: replay_all(ledger, tenant, work, jobs, as_json=json))


@app.command
def verify(
    *,
    tenant: Tenant = None,
    anchor: Annotated[Path | None, Parameter(help="check against this signed head, too")] = None,
    json: Json = False,
) -> int:
    """Prove that no event was altered, removed or inserted; exit 1 names the first bad position.

    Example: sync-ledger verify --anchor /mnt/safe/2026-09.anchor
    """
    from scripts.opened import run
    from scripts.proof import verify_all

    return run(lambda ledger: verify_all(ledger, tenant, anchor, as_json=json))


@app.command
def anchor(
    file: Annotated[Path, Parameter(help="where to write it; an existing file is never overwritten")],
    /,
    *,
    tenant: Tenant = None,
) -> int:
    """Write a signed head, to be kept out of reach of whoever has power over the database.

    Example: sync-ledger anchor /mnt/safe/2026-09.anchor
    """
    from scripts.opened import run
    from scripts.proof import anchor_all

    return run(lambda ledger: anchor_all(ledger, file, tenant))


@app.command
def tenants(*, tenant: Tenant = None, json: Json = False) -> int:
    """List the colleges of this installation: since when, how many events, what is parked.

    Example: sync-ledger tenants --json
    """
    from scripts.listing import list_tenants
    from scripts.opened import run

    return run(lambda ledger: list_tenants(ledger, tenant, as_json=json))


def main() -> None:
    """Runs one command. Exit 0 done, 1 failed, 130 Ctrl-C; errors are one line on stderr."""
    open_standard_streams()
    try:
        code = app(exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001  (a traceback is not for the people who run this)
        from scripts.output import one_line

        print(f"sync-ledger: {one_line(error)}", file=sys.stderr)
        code = 1
    finally:
        with contextlib.suppress(OutputError):  # after the first one nothing is left to be written
            sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

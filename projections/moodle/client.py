"""Calls to Moodle's REST web services, and what their answers mean.

As Moodle 4.5 behaves: requests are flat forms; every error of the application is a 200 whose
body names an `exception`, told apart by `errorcode` (which PHP errors lack); XML, HTML, an
empty 403 and a 503 come from the layers around it. More than `max_input_vars` form fields are
dropped without a word, so no call has more than `MOST_FIELDS`.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Self

import httpx
import msgspec

from ledger.settings import MoodleSettings

MOST_FIELDS = 900
_CONTROL_FIELDS = 3
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 2.0
"""Less than any server keeps an idle connection (Apache: 5), so that none closes under a call."""
_PATH = "/webservice/rest/server.php"

_TEMPORARY = {
    "dbconnectionfailed": "its database does not answer",
    "sitemaintenance": "it is under maintenance",
    "upgraderunning": "it is being upgraded",
}
_MISCONFIGURED = {
    "invalidtoken": "does not accept MOODLE_TOKEN (or PHP's max_input_vars cuts calls: sync-ledger moodle check)",
    "accessexception": "does not let the token use {function}: it is not in the token's service, the service "
    "is off, the token has expired or may not be used from this address, or its user lacks webservice/rest:use",
}
_XML_CODE = re.compile(r"<ERRORCODE>([^<]*)</ERRORCODE>")


class MoodleError(Exception):
    """Something that Moodle did not do. The text is one line and holds no secret."""


class AwayError(MoodleError):
    """Moodle cannot be reached or does not work now: it is tried again later. What was asked may
    have been done all the same, and where `under_way` be done later still.
    """

    def __init__(self, text: str, *, under_way: bool = False) -> None:
        super().__init__(text)
        self.under_way = under_way


class WaitError(AwayError):
    """An earlier call may still be under way, for so many seconds: nothing is asked before."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class MisconfiguredError(MoodleError):
    """The address, the token or its service is not as it must be; no call would do."""


class RefusedError(MoodleError):
    """Moodle refused a call, and did nothing of it. `code` is its `errorcode`, `error` where it
    gives none.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates count. One for all colleges: the list of authorities weighs most of a megabyte."""
    return httpx.create_ssl_context()


class MoodleClient:
    """One college's Moodle. At most `concurrency` calls are under way at once."""

    def __init__(self, settings: MoodleSettings, may_call: Callable[[], bool] = lambda: True) -> None:
        """`may_call`: asked before every call; where it says no, another process works here now."""
        assert settings.base_url is not None
        assert settings.token is not None
        self._token = settings.token
        self._base, self._url = settings.base_url, settings.base_url + _PATH
        self._turns = asyncio.Semaphore(settings.concurrency)
        timeout = httpx.Timeout(settings.timeout, connect=min(settings.timeout, _CONNECT_SECONDS))
        limits = httpx.Limits(max_connections=settings.concurrency, keepalive_expiry=_IDLE_SECONDS)
        self._http = httpx.AsyncClient(timeout=timeout, limits=limits, verify=_trusted())
        self._seconds = settings.timeout
        self._may_call = may_call
        self._trouble: MoodleError | None = None

    def begin(self) -> None:
        """Tries again after whatever went wrong."""
        self._trouble = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def call(self, function: str, **parameters: Any) -> Any:
        """What a function answers, as JSON. Lists and dicts in the parameters become fields such as
        `users[0][email]`; True is 1.

        Raises `AwayError`, `MisconfiguredError` (and for every call behind it, until `begin`),
        `RefusedError`; `ValueError` where the call has too many fields.
        """
        async with self._turns:  # and only then a form is made, so that not many are made at once
            fields = dict(flat(parameters))
            if len(fields) + _CONTROL_FIELDS > MOST_FIELDS:
                raise ValueError(f"{function} with {len(fields)} fields: Moodle might drop some of them")
            fields |= {"wstoken": self._token.reveal(), "wsfunction": function, "moodlewsrestformat": "json"}
            if self._trouble is not None:
                raise self._trouble
            if not self._may_call():
                raise AwayError(
                    "this process has lost its turn: another one works here now, or the database is away"
                )
            try:
                return _answer(function, await self._send(function, fields))
            except (AwayError, MisconfiguredError) as error:
                self._trouble = error
                raise

    async def _send(self, function: str, fields: dict[str, str]) -> httpx.Response:
        try:
            async with asyncio.timeout(self._seconds):  # httpx's own is for each read alone
                return await self._http.post(self._url, data=fields)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AwayError(f"it cannot be reached at {self._base}: {_said(error)}") from None
        except (TimeoutError, httpx.TimeoutException):
            said = f"no answer to {function} within {self._seconds:g} seconds"
            raise AwayError(said, under_way=True) from None
        except httpx.HTTPError as error:
            said = f"the connection broke during {function}: {_said(error)}"
            raise AwayError(said, under_way=True) from None


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a form: `{"users": [{"id": 7}]}` -> `("users[0][id]", "7")`."""
    pairs: Any
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        yield name, str(int(value)) if isinstance(value, bool) else str(value)
        return
    for key, inner in pairs:
        yield from flat(inner, f"{name}[{key}]" if name else str(key))


def fields_of(item: dict[str, Any]) -> int:
    """How many form fields an item of a list takes."""
    return sum(1 for _ in flat(item))


def _answer(function: str, response: httpx.Response) -> Any:
    status = response.status_code
    if status == httpx.codes.FORBIDDEN:
        raise MisconfiguredError("its web services, or their REST protocol, are switched off")
    if status == httpx.codes.NOT_FOUND:
        raise MisconfiguredError("there is no Moodle at MOODLE_BASE_URL (404)")
    if response.is_redirect:
        raise MisconfiguredError("MOODLE_BASE_URL leads elsewhere: use the address that it redirects to")
    if status != httpx.codes.OK:
        gateway = status in (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT)
        raise AwayError(f"it answered {function} with HTTP {status}", under_way=gateway)
    try:
        body = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        if found := _XML_CODE.search(response.text[:10_000]):
            body = {"exception": "", "errorcode": found[1]}
        else:
            raise AwayError(f"it answered {function} with something that is not JSON") from None
    if isinstance(body, dict) and "exception" in body:
        raise _error(function, body)
    return body


def _error(function: str, body: dict[str, Any]) -> MoodleError:
    code, message = str(body.get("errorcode") or "error"), str(body.get("message") or "")
    if code in _TEMPORARY:
        return AwayError(_TEMPORARY[code])
    if code.startswith("dml") and code != "dmlwriteexception":
        return AwayError(f"its database failed on {function} ({code})")
    if code in _MISCONFIGURED:
        return MisconfiguredError("it " + _MISCONFIGURED[code].format(function=function))
    if code == "invalidrecord" and "external_functions" in message:
        return MisconfiguredError(f"it has no function {function}: this needs Moodle 4.1 or newer")
    if code.startswith("<"):  # the policy for passwords comes as HTML in the place of a code
        code = "passwordpolicy"
    return RefusedError(code, f"Moodle refused {function} ({code})")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__

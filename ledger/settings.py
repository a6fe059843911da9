"""The configuration: environment variables, a `.env` file, a TOML file of tenants.

Everything is read once, here. A wrong value raises `ConfigurationError` with one
line that names the variable, its value (unless it is a secret) and the way out.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from dotenv import dotenv_values

from ledger import statuses
from ledger.errors import ConfigurationError

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DATE_ORDERS = ("dmy", "mdy", "ymd")
MASTER_KEY_BYTES = 32

_TENANT_KEYS = {"timezone", "date_order", "currency", "zoho", "moodle", "mapping"}
_ZOHO_KEYS = {
    "client_id", "client_secret", "refresh_token", "accounts_url", "api_url", "webhook_secret",
    "channel_token", "notify_url", "concurrency", "reconcile_every", "redact_fields",
}  # fmt: skip
_SECRETS = {"client_id", "client_secret", "refresh_token", "webhook_secret", "channel_token", "token"}


class Secret:
    """A text that never shows itself in `repr`, logs or errors."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class MoodleSettings(msgspec.Struct, frozen=True):
    """One college's Moodle. `inactive_statuses` and `known_statuses` as `statuses.words` makes them;
    without `inactive_statuses` the default list counts (see `Settings.tenant`).
    """

    enabled: bool = False
    base_url: str | None = None
    token: Secret | None = None
    student_role_id: int = 5
    create_courses: bool = False
    category_id: int = 1
    auth: str = "manual"
    username: str = "{email}"
    on_withdraw: str = "suspend"
    inactive_statuses: frozenset[str] | None = None
    known_statuses: frozenset[str] = statuses.KNOWN
    batch: int = 100
    concurrency: int = 2
    timeout: float = 30.0

    def takes_no_seat(self, status: str | None) -> bool:
        """Whether a record of this status takes no seat in a course."""
        return statuses.is_in(status, self._inactive)

    def is_unknown(self, status: str | None) -> bool:
        """Whether a status is in neither list: it takes a seat, but perhaps it should not."""
        lists = (self._inactive, self.known_statuses)
        return bool(statuses.normal(status)) and not any(statuses.is_in(status, each) for each in lists)

    @property
    def named_statuses(self) -> frozenset[str]:
        """Statuses that are known in every spelling of `statuses.normal`; the first default list is
        compared more closely.
        """
        inactive = frozenset[str]() if self._inactive is statuses.FIRST_INACTIVE else self._inactive
        return inactive | self.known_statuses

    @property
    def _inactive(self) -> frozenset[str]:
        return statuses.INACTIVE if self.inactive_statuses is None else self.inactive_statuses


class TenantSettings(msgspec.Struct, frozen=True):
    """What one college may set for itself. `currency`: the ISO code of amounts that name none."""

    timezone: ZoneInfo = ZoneInfo("UTC")
    date_order: str = "dmy"
    currency: str | None = None
    redact_fields: frozenset[str] = frozenset()
    moodle: MoodleSettings = MoodleSettings()
    mapping: Mapping[str, Mapping[str, tuple[str, ...]]] = msgspec.field(default_factory=dict)


class Settings(msgspec.Struct, frozen=True):
    """The installation's settings, checked. `first_statuses`: the tenants that were founded with the
    first default list of inactive statuses; `open_installation` reads them from the ledger.
    """

    home: Path
    database_url: Secret | None = None
    migrate_database_url: Secret | None = None
    pooled: bool = False
    master_key: Secret | None = None
    signing_key_file: Path | None = None
    default_tenant: str = "default"
    tenants: Mapping[str, TenantSettings] = msgspec.field(default_factory=dict)
    idempotency_ttl_seconds: int = 3600
    max_body_bytes: int = 16 * 1024 * 1024
    max_records: int = 10_000
    app_name: str = "sync-ledger"
    env: str = "production"
    log_level: str = "INFO"
    first_statuses: frozenset[str] = frozenset()

    def status_lists(self, tenant: str) -> str:
        """What a tenant's two lists of statuses are called, for a sentence."""
        if tenant == self.default_tenant:
            return "MOODLE_KNOWN_STATUSES or MOODLE_INACTIVE_STATUSES"
        return f"known_statuses or inactive_statuses of [tenants.{tenant}.moodle] in TENANTS_FILE"

    def tenant(self, name: str) -> TenantSettings:
        """The settings of a tenant; one without settings of its own has the defaults, which are
        those of the time when it was founded.
        """
        own = self.tenants.get(name, _DEFAULTS)
        if name not in self.first_statuses or own.moodle.inactive_statuses is not None:
            return own
        moodle = msgspec.structs.replace(own.moodle, inactive_statuses=statuses.FIRST_INACTIVE)
        return msgspec.structs.replace(own, moodle=moodle)


_DEFAULTS = TenantSettings()


def default_home(environment: Mapping[str, str]) -> Path:
    """Where the embedded database and generated secrets live when nobody says."""
    if given := environment.get("LEDGER_HOME"):
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/sync-ledger")
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser().absolute() / "sync-ledger"


def load(environment: Mapping[str, str] | None = None, dotenv: Path | None = None) -> Settings:
    """Reads `.env` (the environment wins), then checks every value.

    Raises `ConfigurationError`.
    """
    from_file = dotenv_values(dotenv or Path(".env"))
    values = {k: v for k, v in from_file.items() if v is not None}
    values.update(os.environ if environment is None else environment)
    return _Reader(values).settings()


class _Reader:
    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def settings(self) -> Settings:
        auth = self._text("AUTH", "off").lower()
        if auth not in ("off", "required"):
            raise ConfigurationError(
                f"AUTH is {auth!r}: use off (required needs API keys, which this release cannot make yet)"
            )
        if auth == "required":
            raise ConfigurationError(
                "AUTH=required needs API keys, which this release cannot make yet: "
                "set AUTH=off and serve on loopback"
            )
        default_tenant = self._text("DEFAULT_TENANT_ID", "default")
        if not TENANT.fullmatch(default_tenant):
            raise ConfigurationError(
                f"DEFAULT_TENANT_ID is {default_tenant!r}: use 1 to 64 letters, digits, "
                "dots, dashes or underscores, starting with a letter or digit"
            )
        level = self._text("LOG_LEVEL", "INFO").upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigurationError(f"LOG_LEVEL is {level!r}: use DEBUG, INFO, WARNING or ERROR")
        return Settings(
            home=default_home(self._values),
            database_url=self._database("DATABASE_URL"),
            migrate_database_url=self._database("MIGRATE_DATABASE_URL"),
            pooled=self._choice("DB_POOLER", "none", ("none", "transaction")) == "transaction",
            master_key=self._master_key(),
            signing_key_file=self._file("LEDGER_SIGNING_KEY_FILE"),
            default_tenant=default_tenant,
            tenants=self._tenants(default_tenant),
            idempotency_ttl_seconds=self._integer("IDEMPOTENCY_TTL_SECONDS", 3600, 0),
            max_body_bytes=self._integer("MAX_BODY_BYTES", 16 * 1024 * 1024, 1),
            max_records=self._integer("MAX_RECORDS", 10_000, 1),
            app_name=self._text("APP_NAME", "sync-ledger"),
            env=self._text("ENV", "production"),
            log_level=level,
        )

    def _text(self, name: str, default: str) -> str:
        return self._values.get(name, "").strip() or default

    def _file(self, name: str) -> Path | None:
        text = self._text(name, "")
        return Path(text).expanduser().absolute() if text else None

    def _choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self._text(name, default).lower()
        if value not in allowed:
            raise ConfigurationError(f"{name} is {value!r}: use {' or '.join(allowed)}")
        return value

    def _integer(self, name: str, default: int, least: int) -> int:
        return _whole(name, self._text(name, str(default)), least)

    def _database(self, name: str) -> Secret | None:
        url = self._text(name, "")
        if not url:
            return None
        if not url.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(f"{name} does not start with postgresql://")
        return Secret(url)

    def _master_key(self) -> Secret | None:
        text = self._text("LEDGER_MASTER_KEY", "")
        if not text:
            return None
        try:
            decode_master_key(text)
        except ValueError:
            raise ConfigurationError(
                "LEDGER_MASTER_KEY is not 32 bytes in base64: make one with `openssl rand -base64 32`"
            ) from None
        return Secret(text)

    def _tenants(self, default_tenant: str) -> dict[str, TenantSettings]:
        tables: dict[str, dict[str, Any]] = {}
        if file := self._text("TENANTS_FILE", ""):
            tables = _read_tenants_file(Path(file))
        tenants = {name: _tenant(name, table) for name, table in tables.items()}
        redact = self._text("ZOHO_REDACT_FIELDS", "")
        own = tenants.get(default_tenant, _DEFAULTS)
        tenants[default_tenant] = msgspec.structs.replace(
            own,
            redact_fields=own.redact_fields | _names(redact),
            moodle=self._moodle(own.moodle),
        )
        self._integer("ZOHO_CONCURRENCY", 4, 1)
        for name, tenant in tenants.items():
            where = "MOODLE_{}" if name == default_tenant else f"TENANTS_FILE [tenants.{name}] moodle.{{}}"
            _complete(tenant.moodle, where)
        return tenants

    def _moodle(self, own: MoodleSettings) -> MoodleSettings:
        names = MoodleSettings.__struct_fields__
        given = {name: text for name in names if (text := self._text(f"MOODLE_{name.upper()}", ""))}
        return _moodle(own, given, lambda name: f"MOODLE_{name.upper()}")


def decode_master_key(text: str) -> bytes:
    """Base64 of exactly 32 bytes. Raises `ValueError`."""
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if len(key) != MASTER_KEY_BYTES:
        raise ValueError(f"{len(key)} bytes")
    return key


def _with_files(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """`token_file = "path"` as the token that the file holds."""
    values = dict(table)
    for key in [key for key in table if key.endswith("_file")]:
        try:
            values[key.removesuffix("_file")] = Path(str(values.pop(key))).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigurationError(f"{where} {key}: the file cannot be read: {reason}") from None
    return values


def _moodle(own: MoodleSettings, given: Mapping[str, Any], called: Callable[[str], str]) -> MoodleSettings:
    """Moodle settings with some given anew, each checked. `called` is how a setting is named
    in an error.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value).strip()
        values[name] = _MOODLE_VALUES.get(name, _as_it_is)(called(name), text)
    return msgspec.structs.replace(own, **values)


def _complete(moodle: MoodleSettings, where: str) -> None:
    """Raises `ConfigurationError` where Moodle is to be used and cannot be."""
    for name in ("base_url", "token"):
        if moodle.enabled and getattr(moodle, name) is None:
            called = where.format(name.upper() if where.startswith("MOODLE") else name)
            raise ConfigurationError(f"{called} is missing: with Moodle enabled it is needed")


USERNAME_PARTS = ("email", "local", "zoho_id", "student_number", "first_name", "last_name")
"""What a username template may name; `local` is what stands before the @ of the e-mail address."""
USERNAME_PART = re.compile(r"\{(\w*)\}")


def _template(name: str, text: str) -> str:
    """What usernames are made by."""
    named, rest = USERNAME_PART.findall(text), USERNAME_PART.sub("", text)
    known = ", ".join(f"{{{part}}}" for part in USERNAME_PARTS)
    if not named or "{" in rest or "}" in rest:
        raise ConfigurationError(f"{name} is {text!r}: write at least one of {known}")
    if unknown := [part for part in named if part not in USERNAME_PARTS]:
        raise ConfigurationError(f"{name} is {text!r}: {{{unknown[0]}}} is none of {known}")
    return text


def _address(name: str, text: str) -> str:
    address = text.rstrip("/")
    if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", address):
        raise ConfigurationError(f"{name} is not an address such as https://moodle.college.example")
    return address


def _withdrawal(name: str, text: str) -> str:
    if text.lower() not in ("suspend", "unenrol"):
        raise ConfigurationError(f"{name} is {text!r}: use suspend or unenrol")
    return text.lower()


def _as_it_is(_name: str, text: str) -> str:
    return text


def _whole(name: str, text: str, least: int) -> int:
    value = int(text) if re.fullmatch("[0-9]{1,18}", text) else least - 1
    if value < least:
        raise ConfigurationError(f"{name} is {text!r}: use a whole number from {least} up")
    return value


def _seconds(name: str, text: str) -> float:
    figures = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*s?", text.lower())
    value = float(figures[1]) if figures else 0.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} is {text!r}: use seconds, such as 30")
    return value


def _boolean(name: str, text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ConfigurationError(f"{name} is {text!r}: use true or false")


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


_MOODLE_VALUES: dict[str, Callable[[str, str], Any]] = {
    "enabled": _boolean,
    "base_url": _address,
    "token": lambda _, text: Secret(text),
    "student_role_id": lambda name, text: _whole(name, text, 1),
    "create_courses": _boolean,
    "category_id": lambda name, text: _whole(name, text, 1),
    "username": _template,
    "on_withdraw": _withdrawal,
    "inactive_statuses": lambda _, text: statuses.words(text.split(",")),
    "known_statuses": lambda _, text: statuses.words(text.split(",")),
    "batch": lambda name, text: _whole(name, text, 1),
    "concurrency": lambda name, text: _whole(name, text, 1),
    "timeout": _seconds,
}
"""How each setting of Moodle is read; the others are texts."""


def _read_tenants_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"TENANTS_FILE {file} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"TENANTS_FILE {file} is not TOML: {error}") from None
    tables = document.get("tenants", {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise ConfigurationError(f"TENANTS_FILE {file}: write one table [tenants.NAME] a tenant")
    return tables


def _tenant(name: str, table: Mapping[str, Any]) -> TenantSettings:
    where = f"TENANTS_FILE [tenants.{name}]"
    if not TENANT.fullmatch(name):
        raise ConfigurationError(f"{where}: the name may hold letters, digits, dots, - and _ only")
    if unknown := sorted(set(table) - _TENANT_KEYS):
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}")
    zone = table.get("timezone", "UTC")
    try:
        timezone = ZoneInfo(zone)
    except (ValueError, TypeError, OSError, KeyError):
        raise ConfigurationError(f"{where} timezone is {zone!r}: use a name such as Asia/Amman") from None
    order = table.get("date_order", "dmy")
    if order not in DATE_ORDERS:
        raise ConfigurationError(f"{where} date_order is {order!r}: use dmy, mdy or ymd")
    currency = table.get("currency")
    if currency is not None and not (isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency)):
        raise ConfigurationError(f"{where} currency is {currency!r}: use an ISO code such as JOD")
    for part, known in (("zoho", _ZOHO_KEYS), ("moodle", {*MoodleSettings.__struct_fields__})):
        inner = table.get(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{where} {part}: write one table [tenants.{name}.{part}]")
        files = {f"{key}_file" for key in known & _SECRETS}
        if unknown := sorted(set(inner) - known - files):
            raise ConfigurationError(f"{where} {part}: unknown key {unknown[0]!r}")
    zoho, moodle = table.get("zoho", {}), _with_files(where, table.get("moodle", {}))
    redact = zoho.get("redact_fields", "")
    redact = ",".join(redact) if isinstance(redact, list) else str(redact)
    return TenantSettings(
        timezone=timezone,
        date_order=order,
        currency=currency,
        redact_fields=_names(redact),
        moodle=_moodle(MoodleSettings(), moodle, lambda key: f"{where} moodle.{key}"),
        mapping=_mapping(where, table.get("mapping", {})),
    )


def _mapping(where: str, table: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    problem = ConfigurationError(
        f'{where} mapping: write [tenants.NAME.mapping.ENTITY] with field = ["Zoho_Name", ...]'
    )
    if not isinstance(table, dict):
        raise problem
    mapping: dict[str, dict[str, tuple[str, ...]]] = {}
    for entity, fields in table.items():
        if not isinstance(fields, dict):
            raise problem
        for names in fields.values():
            if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
                raise problem
        mapping[entity] = {field: tuple(names) for field, names in fields.items()}
    return mapping

"""Who may ask at all: this machine itself, and no page of another site.

What browsers send, and why that is enough: docs/access.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from api.problems import ProblemError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

PROXY_HEADERS = frozenset(
    # RFC 7239, RFC 9110 (7.6.3), RFC 8586
    b"forwarded via cdn-loop "
    b"x-forwarded x-forwarded-for x-forwarded-host x-forwarded-server x-forwarded-proto x-forwarded-protocol "
    b"x-forwarded-scheme x-forwarded-ssl x-forwarded-port x-forwarded-by x-forwarded-prefix x-forwarded-path "
    b"x-forwarded-uri x-forwarded-method x-forwarded-user x-forwarded-email x-forwarded-client-cert "
    b"x-forwarded-tls-client-cert x-original-forwarded-for x-vercel-forwarded-for x-ms-forwarded-client-ip "
    b"forwarded-for forwarded-for-ip http-forwarded "
    b"x-real-ip x-client-ip x-cluster-client-ip x-remote-ip x-remote-addr x-originating-ip x-proxyuser-ip "
    b"client-ip http-client-ip proxy-client-ip wl-proxy-client-ip true-client-ip "
    b"x-original-host x-original-url x-original-uri x-rewrite-url front-end-https "
    b"x-envoy-external-address cf-connecting-ip cf-connecting-ipv6 cf-ray fastly-client-ip fly-client-ip "
    b"incap-client-ip x-azure-clientip x-azure-socketip x-appengine-user-ip x-nf-client-connection-ip".split()
)
"""What proxies add to a request."""

_TELLING = PROXY_HEADERS | {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode"}

_OWN_SITES = frozenset({b"same-origin", b"none"})
"""Of `Sec-Fetch-Site`: a page of this server; the person itself (an address that was typed)."""

_LOOPBACK_HOST = re.compile(
    "(?:{})(?::[0-9]{{1,5}})?".format(
        "|".join(re.escape(f"[{name}]" if ":" in name else name) for name in sorted(LOOPBACK))
    ).encode(),
    re.IGNORECASE,
)

Told = dict[bytes, list[bytes]]
"""What a request tells of its way here: header -> its values."""


def refusal(method: str, scheme: str, headers: Iterable[tuple[bytes, bytes]]) -> ProblemError | None:
    """Why a request is refused before anything else looks at it, None where it is not."""
    told: Told = {}
    for name, value in headers:
        if name in _TELLING:
            told.setdefault(name, []).append(value)
    return _beyond_loopback(told) or _from_another_site(method, scheme, told)


def _beyond_loopback(told: Told) -> ProblemError | None:
    """While there are no keys: a request that came through a proxy, or names a host that is not
    loopback, as a page can make a browser do (DNS rebinding).
    """
    for name in told:
        if name in PROXY_HEADERS:
            return ProblemError(
                403,
                f"The request came through a proxy (it has the header {_text(name)}), and AUTH=off serves "
                "on loopback only: ask this server itself.",
            )
    hosts = told.get(b"host", ())
    for host in hosts:
        if not _LOOPBACK_HOST.fullmatch(host):
            return ProblemError(
                403,
                f"The request names the host {_text(host)!r}, and AUTH=off serves on loopback only: "
                "use localhost.",
            )
    if len(hosts) > 1:
        return ProblemError(400, "The header Host is there more than once: send it once.")
    return None


def _from_another_site(method: str, scheme: str, told: Told) -> ProblemError | None:
    """Always: what a page of another origin sent. Such a page may lead somebody here by a link, and
    nothing else.
    """
    origins, sites = told.get(b"origin", ()), told.get(b"sec-fetch-site", ())
    if not origins and not sites:
        return None  # no browser sent it
    own = [_normal(b"%s://%s" % (scheme.encode(), host)) for host in told.get(b"host", ())]
    signs = [f"Origin: {_text(origin)}" for origin in origins if _normal(origin) not in own]
    signs += [f"Sec-Fetch-Site: {_text(site)}" for site in sites if site not in _OWN_SITES]
    by_link = method in ("GET", "HEAD") and told.get(b"sec-fetch-mode") == [b"navigate"]
    if by_link or not signs:
        return None
    return ProblemError(
        403,
        f"A page of another site sent this request ({signs[0]}), and only this server's own pages may: "
        "open one of them, such as /docs, and send it from there.",
    )


def _normal(origin: bytes) -> bytes:
    """An origin as browsers write it: in lower case, without the default port."""
    origin = origin.lower()
    return origin.removesuffix(b":80" if origin.startswith(b"http:") else b":443")


def _text(value: bytes) -> str:
    return value[:80].decode("latin-1")

"""Replies in Moodle's XML, and the pages that are neither JSON nor XML."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

HEADER = '<?xml version="1.0" encoding="UTF-8" ?>\n'

MAINTENANCE_PAGE = """<!DOCTYPE html>
<html  lang="en" xml:lang="en">
    <head>
        <meta http-equiv="Content-Type" content="text/html; charset=utf-8" />
                <title>{name} under maintenance</title>
    </head>
    <body>
        <div id="page">
            <div id="region-main">
                <h1>{name} under maintenance</h1>
                <div class='alert-danger'>The site is undergoing maintenance and is currently not \
available</div>                            </div>
        </div>
    </body>
</html>

"""
NOT_FOUND_PAGE = """<!doctype html><html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>\
<p>The requested resource was not found on this server.</p></body></html>"""


def xml_result(result: Any) -> str:
    """A result."""
    return f"{HEADER}<RESPONSE>\n{_element(result)}</RESPONSE>\n"


def _element(value: Any) -> str:
    if value is None:
        return '<VALUE null="null"/>\n'
    if isinstance(value, list):
        return f"<MULTIPLE>\n{''.join(_element(item) for item in value)}</MULTIPLE>\n"
    if isinstance(value, dict):
        keys = "".join(f'<KEY name="{key}">{_element(item)}</KEY>\n' for key, item in value.items())
        return f"<SINGLE>\n{keys}</SINGLE>\n"
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return f"<VALUE>{escape(text)}</VALUE>\n"


def xml_error(body: dict[str, str]) -> str:
    """An error, from its JSON object."""
    lines = [f'<EXCEPTION class="{body["exception"]}">']
    for key, element in (("errorcode", "ERRORCODE"), ("message", "MESSAGE"), ("debuginfo", "DEBUGINFO")):
        if key in body:
            lines.append(f"<{element}>{escape(body[key])}</{element}>")
    return HEADER + "\n".join([*lines, "</EXCEPTION>", ""])

"""What tests do where a program is missing."""

from __future__ import annotations

import pytest

from tests.harness import need


def test_a_program_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path, whatever is required."""
    monkeypatch.setenv("TEST_REQUIRES", "sh")
    assert need("sh").endswith("/sh")


def test_a_program_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is skipped, and fails where the program must be there."""
    for required in ("", "sh", "no-such-program-at-all"):
        monkeypatch.setenv("TEST_REQUIRES", required)
        with pytest.raises(pytest.skip.Exception, match="no-such-program"):
            need("no-such-program")
    monkeypatch.setenv("TEST_REQUIRES", "sh no-such-program")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        need("no-such-program")

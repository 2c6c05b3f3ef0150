# SPDX-License-Identifier: Apache-2.0
"""Whatever is logged, in whatever way, a secret does not come out."""

from __future__ import annotations

import json
import logging as standard

import pytest
from mooring.lib import logging
from mooring.lib.secrets import Secret

CANARY = "canary7777777777777777777777777777777777777777777777"


@pytest.mark.parametrize("fmt", logging.FORMATS)
def test_secrets_are_removed_from_every_kind_of_value(fmt: str, capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", fmt)
    log = logging.get("test")
    token = f"mrg_t-abcdefghijkl_{CANARY}"
    log.info("event", secret=Secret(CANARY), nested={"list": [Secret(CANARY), token]}, text=f"got {token}")
    log.info(f"the event itself {token}")
    log.info("bytes", data=token.encode(), header=f"Authorization: Bearer {CANARY}")
    standard.getLogger("library").warning("join mrj_j-abcdefghijkl_%s", CANARY)
    standard.getLogger("library").warning("direct mre_e-abcdefghijkl_%s", CANARY)
    try:
        raise ValueError(f"bad token {token}")
    except ValueError:
        log.exception("failed")
    text = capsys.readouterr().err
    assert CANARY not in text
    assert text.count("<secret>") >= 7
    assert "mrg_t-abcdefghijkl_" in text, "the id of a token is no secret, and helps"


def test_a_line_of_json_holds_event_level_logger_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", "json")
    logging.get("mooring.test").warning("agent lost", cluster="c-1", error=ValueError("x"))
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "agent lost"
    assert line["level"] == "warning"
    assert line["logger"] == "mooring.test"
    assert line["cluster"] == "c-1"
    assert "x" in line["error"]
    assert line["timestamp"].endswith("Z")


def test_the_level_holds_for_libraries_too(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("warning", "json")
    logging.get("test").info("not this")
    standard.getLogger("library").info("nor this")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "fmt"), [("loud", "json"), ("info", "xml")])
def test_unknown_settings_are_refused(level: str, fmt: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        logging.configure(level, fmt)

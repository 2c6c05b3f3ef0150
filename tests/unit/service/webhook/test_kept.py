# SPDX-License-Identifier: Apache-2.0
"""What is on disk, what the settings say, and a time that never goes back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mooring.lib.clock import ManualClock
from mooring.webhook.config import BadSettings, Config, load
from mooring.webhook.disk import Disk, shard_name
from mooring.webhook.heldtime import MOST_AHEAD, HeldTime
from mooring.wire.endpoint import MAX_DOCUMENT
from support.endpoint import Sealer

GOOD: dict[str, Any] = {
    "cluster_id": "c-aaaaaaaaaaaa",
    "cluster_uid": "uid",
    "policy_key": Sealer().policy_key,
    "tls_cert": "tls.crt",
    "tls_key": "tls.key",
    "client_ca": "/ca.crt",
    "state_dir": "state",
}
PAGE = (Path(__file__).parents[4] / "docs" / "kube-api-auth.md").read_text()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    it = Disk(tmp_path / "state")
    it.prepare()
    return it


# --- the disk -------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_read(disk: Disk, tmp_path: Path) -> None:
    assert (disk.index(), disk.clock(), disk.shards({1: "a" * 64})) == (None, 0.0, {})
    disk.save(b"index", {1: b"one", 2: b"two", 3: b"not named"}, {1: "a" * 64, 2: "b" * 64})
    assert disk.index() == b"index"
    assert disk.shards({1: "a" * 64, 2: "b" * 64, 3: "c" * 64}) == {1: b"one", 2: b"two"}
    for path in [tmp_path / "state", *(tmp_path / "state").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_later_index_replaces_the_former_and_what_it_does_not_name(disk: Disk, tmp_path: Path) -> None:
    disk.save(b"old", {1: b"one", 2: b"two"}, {1: "a" * 64, 2: "b" * 64})
    (tmp_path / "state" / ".shard-7-half.x1").write_bytes(b"left by a crash")
    disk.save(b"new", {1: b"three"}, {1: "c" * 64})
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["index", shard_name(1, "c" * 64)]
    disk.drop_shards()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["index"]


def test_a_crash_between_two_files_leaves_the_former_copy_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.save(b"old", {1: b"one"}, {1: "a" * 64})
    replace, left = os.replace, [1]

    def once(*paths: Any) -> None:
        if not left:
            raise OSError("no space left")
        left.pop()
        replace(*paths)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="space"):
        disk.save(b"new", {1: b"two"}, {1: "b" * 64})
    assert (disk.index(), disk.shards({1: "a" * 64})) == (b"old", {1: b"one"})


def test_what_is_too_large_is_not_read(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "state" / "index").write_bytes(b"x" * (MAX_DOCUMENT + 1))
    assert disk.index() is None


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1" * 400])
def test_a_time_that_is_none_is_not_believed(disk: Disk, tmp_path: Path, text: str) -> None:
    (tmp_path / "state" / "clock").write_text(text)
    assert disk.clock() == 0.0
    disk.keep_clock(1234.5)
    assert disk.clock() == 1234.5


# --- time -----------------------------------------------------------------------------------------------------------


def test_time_goes_on_whatever_the_clock_does() -> None:
    clock = ManualClock(1000.0)
    held = HeldTime(clock)
    assert held.now() == 1000.0
    clock._now = 10.0
    clock._monotonic += 5
    assert held.now() == 1005.0
    assert held.behind == 995.0
    clock._now = 2000.0
    assert held.now() == 2000.0
    assert held.behind == 0.0
    clock._monotonic -= 100  # which no clock does
    assert held.now() == 2000.0


def test_time_begins_where_it_was_kept() -> None:
    held = HeldTime(ManualClock(1000.0))
    held.at_least(5000.0)
    held.at_least(10.0)
    assert held.now() == 5000.0
    assert HeldTime(ManualClock(1000.0), 3000.0).now() == 3000.0


@pytest.mark.parametrize(("said", "believed"), [(30.0, 30.0), (-30.0, 0.0), (1e12, MOST_AHEAD)])
def test_the_server_may_be_ahead_and_never_behind(said: float, believed: float) -> None:
    held = HeldTime(ManualClock(1000.0))
    held.server_ahead(said)
    assert held.now() == 1000.0 + believed


# --- the settings ---------------------------------------------------------------------------------------------------


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "kube-api-auth.toml"
    settings = {name: value for name, value in (GOOD | changes).items() if value is not None}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    assert config.tls_cert == str(tmp_path / "tls.crt")
    assert config.client_ca == "/ca.crt"
    assert config.kubeconfig == ""
    assert config.address == ("127.0.0.1", 8440)
    assert load(written(tmp_path, listen="[::1]:1")).address == ("::1", 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: None}, f"'{name}' is missing") for name in GOOD),
        *(({name: " "}, f"'{name}' is ") for name in GOOD),
        ({"namespace": ""}, "'namespace' is empty"),
        ({"policy_key": "x"}, "'policy_key'"),
        ({"audiences": []}, "'audiences'"),
        ({"audiences": [""]}, "'audiences'"),
        ({"audiences": "x"}, "'audiences' is wrong"),
        ({"listen": ":8440"}, "'listen'"),
        ({"listen": "0.0.0.0:8440"}, "'listen'"),
        ({"listen": "192.0.2.1:8440"}, "'listen'"),
        ({"listen": "localhost:8440"}, "'listen'"),
        ({"listen": "127.0.0.1"}, "'listen'"),
        ({"listen": "127.0.0.1:0"}, "'listen'"),
        ({"listen": "::1:80"}, "'listen'"),
        ({"metrics": "yes"}, "'metrics' is wrong"),
        ({"log_level": "loud"}, "'log_level'"),
        ({"log_format": "x"}, "'log_format'"),
        ({"insecure": True}, "no setting 'insecure'"),
    ],
)
def test_without_its_security_it_does_not_start(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSettings) as raised:
        load(written(tmp_path, **changes))
    assert said in raised.value.reason


@pytest.mark.parametrize("content", [b"a = ", b"\xff", b"[" * 4000])
def test_a_file_that_is_no_toml_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(BadSettings):
        load(path)
    with pytest.raises(BadSettings, match="no file"):
        load(tmp_path / "none")
    with pytest.raises(BadSettings, match="cannot be read"):
        load(tmp_path)


def test_every_setting_is_documented_with_its_default() -> None:
    table = PAGE.split("| setting |")[1].split("\n\n")[0]
    rows = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    defaults = {field.name: field.default for field in msgspec.structs.fields(Config)}
    assert [row[0] for row in rows] == list(defaults)
    for name, said, about in rows:
        default = defaults[name]
        if default is msgspec.NODEFAULT:
            assert said == ""
        else:
            assert said == json.dumps(default), name
        assert len(about) > 15, name

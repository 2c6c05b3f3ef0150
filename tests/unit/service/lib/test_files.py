# SPDX-License-Identifier: Apache-2.0
"""Private files are private from their first moment, and whole at every moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic


def test_a_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "key", "secret")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_text() == "secret"


def test_a_public_file_gets_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_atomic(tmp_path / "ca.crt", b"pem", 0o644)
    assert (tmp_path / "ca.crt").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    write_atomic(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["config"]


def test_replacing_takes_away_rights_that_the_old_file_gave(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    write_atomic(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_is_made_private_or_set_so(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    private_folder(tmp_path / "open")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_place_of_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MooringError, match="file"):
        private_folder(tmp_path / "file")

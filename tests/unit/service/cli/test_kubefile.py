# SPDX-License-Identifier: Apache-2.0
"""A kubeconfig that others use too: locked as kubectl locks it, replaced in one step, never half and never lost."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mooring.cli import kubefile
from mooring.kube.configmerge import CannotMerge
from mooring.lib.errors import MooringError

NEW = {"apiVersion": "v1", "kind": "Config"}


def new(_old: Any) -> dict[str, str]:
    return NEW


def test_a_new_file_is_private_and_so_is_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".kube" / "config"
    assert kubefile.update(path, new)
    assert path.read_text() == "apiVersion: v1\nkind: Config\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["config"], "the lock or a temporary file was left"
    assert kubefile.load(path) == NEW


def test_the_mode_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("{}")
    path.chmod(0o640)
    assert kubefile.update(path, new)
    assert path.stat().st_mode & 0o777 == 0o640
    assert kubefile.open_to_others(path)
    path.chmod(0o600)
    assert not kubefile.open_to_others(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes others' files")
def test_the_owner_stays_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("{}")
    os.chown(path, 12345, 23456)
    assert kubefile.update(path, new)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_nothing_is_written_when_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("# dear reader\nkind: Config\napiVersion: v1\n")
    before = path.stat()
    assert not kubefile.update(path, new)
    assert path.read_text().startswith("# dear reader")
    assert path.stat().st_ino == before.st_ino


def test_comments_stay_where_only_the_current_context_changes(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("# mine\nkind: Config\ncurrent-context: a # now\nother: {current-context: b}\n# the end\n")
    assert kubefile.update(path, lambda old: {**(old or {}), "current-context": "1e3"})
    assert path.read_text() == "# mine\nkind: Config\ncurrent-context: '1e3'\nother: {current-context: b}\n# the end\n"


@pytest.mark.parametrize(
    "text",
    ['"current-context": a\n', "current-context: a", "b: |\n  x\ncurrent-context:\n  a\n", "{current-context: a}"],
)
def test_however_the_current_context_is_written_it_is_changed(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    before = kubefile.load(path) or {}
    assert kubefile.update(path, lambda old: {**(old or {}), "current-context": "new"})
    assert kubefile.load(path) == {**before, "current-context": "new"}


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "config", tmp_path / "config"
    real.parent.mkdir()
    real.write_text("{}")
    link.symlink_to("dotfiles/config")
    assert kubefile.update(link, new)
    assert link.is_symlink()
    assert real.read_text() == "apiVersion: v1\nkind: Config\n"
    lock = real.with_name("config.lock")
    lock.touch()
    with pytest.raises(MooringError, match="another program is changing"):
        kubefile.update(link, lambda _old: {"a": 1}, lock_wait=0.1)
    assert not link.with_name("config.lock").exists()


def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path) -> None:
    link = tmp_path / "config"
    link.symlink_to(link)
    with pytest.raises(MooringError, match="nothing was changed"):
        kubefile.update(link, new)


@pytest.mark.parametrize("content", ["a: [1", "a: 1\n---\nb: 2\n", "- x\n", "a: 1\na: 2\n", "a: \0"])
def test_what_cannot_be_read_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(MooringError, match=r"is no kubeconfig.*nothing was changed"):
        kubefile.update(path, new)
    assert path.read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["config"]
    with pytest.raises(MooringError, match="is no kubeconfig"):
        kubefile.load(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(MooringError, match=r"is no file"):
            kubefile.update(path, new)


def test_a_refused_merge_changes_nothing_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("{}")

    def refuse(_old: Any) -> Any:
        raise CannotMerge("the context 'a' in it is another's", "rename it")

    with pytest.raises(MooringError, match=r"the context 'a'.*rename it; nothing was changed"):
        kubefile.update(path, refuse)
    assert path.read_text() == "{}"
    assert not path.with_name("config.lock").exists()


def test_kubectls_lock_is_waited_for(tmp_path: Path) -> None:
    path, lock = tmp_path / "config", tmp_path / "config.lock"
    lock.touch()
    with pytest.raises(MooringError, match=f"another program is changing.*remove {lock}"):
        kubefile.update(path, new, lock_wait=0.1)
    assert lock.exists(), "not ours to remove"
    assert not path.exists()
    threading.Timer(0.2, lock.unlink).start()
    began = time.monotonic()
    assert kubefile.update(path, new, lock_wait=10)
    assert time.monotonic() - began >= 0.1


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config"

    def add(number: int) -> None:
        kubefile.update(path, lambda old: {**(old or {}), f"n{number}": number}, lock_wait=30)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert kubefile.load(path) == {f"n{number}": number for number in range(8)}


def test_no_file_is_nothing(tmp_path: Path) -> None:
    assert kubefile.load(tmp_path / "config") is None

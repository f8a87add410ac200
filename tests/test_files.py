"""Files that appear whole or not at all, locks, and names that are free."""

import os
import stat
import subprocess
import sys

import pytest
from conftest import ROOT

from utils import UserError
from utils.files import check_writable, lock, numbered, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write("old"))

    def fails(file):
        file.write("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_atomically(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_old_content_can_be_kept_under_another_name(tmp_path):
    path, previous = tmp_path / "last", tmp_path / "previous"
    for number in range(3):
        write_atomically(path, lambda file, number=number: file.write(str(number)), previous=previous)
    assert path.read_text() == "2" and previous.read_text() == "1" and len(list(tmp_path.iterdir())) == 2


def test_a_file_is_flushed_before_it_gets_its_name_and_then_its_folder(tmp_path, monkeypatch):
    """Else a power cut leaves an empty file, or the name of the old one."""
    path, acts = tmp_path / "last", []
    path.write_text("old")
    fsync, link, replace = os.fsync, os.link, os.replace

    def flush(handle):
        status = os.fstat(handle)
        acts.append("folder" if stat.S_ISDIR(status.st_mode) else f"file of {status.st_size} bytes")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "link", lambda *paths: acts.append("previous") or link(*paths))
    monkeypatch.setattr(os, "replace", lambda *paths: acts.append("name") or replace(*paths))
    write_atomically(path, lambda file: file.write("newer"), previous=tmp_path / "previous")
    assert acts == ["file of 5 bytes", "previous", "name", "folder"]


def test_names_to_try_are_numbered_until_one_is_free():
    names = numbered("run", ".csv")
    assert [str(next(names)) for _ in range(3)] == ["run.csv", "run_2.csv", "run_3.csv"]


def test_a_locked_file_is_refused_to_other_processes_and_the_lock_ends_with_its_file(tmp_path):
    code = "import sys; from utils.files import lock; print(lock(open(sys.argv[1], 'ab')))"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    found = []
    with open(tmp_path / "lock", "ab") as file:
        assert lock(file)
        found.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    found.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found == ["False\n", "True\n"]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path):
    check_writable(tmp_path / "new.csv", "--result-file")
    os.mkfifo(tmp_path / "pipe")
    paths = (tmp_path, tmp_path / "nowhere" / "new.csv", f"{tmp_path}/new/", tmp_path / "pipe", "/proc/new.csv")
    for path in (*paths, "/dev/full"):
        with pytest.raises(UserError, match="cannot be written"):
            check_writable(path, "--result-file")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_pipe_stays_one_and_a_link_too(tmp_path):
    """As root, a file renamed to /dev/null would take the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        write_atomically(tmp_path / "pipe", lambda file: file.write("new"))
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", lambda file: file.write("new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"

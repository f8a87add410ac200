"""What hearth says: a number and its noun agree, and where it cannot be written the work continues."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.notices import Output, command, counted


def test_a_number_and_its_noun_agree():
    assert [counted(number, "epoch") for number in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(number, "class", "classes") for number in (1, 7)] == ["1 class", "7 classes"]


def test_a_command_that_is_printed_works_where_the_program_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("train", "--resume=my runs/a") == "python main.py train '--resume=my runs/a'"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").touch()  # another program's
    assert command("runs") == f"python {ROOT / 'main.py'} runs"


@pytest.mark.parametrize("kind, warned", [("disk", 1), ("pipe", 0)])
def test_a_stream_that_takes_no_more_stops_nothing(kind, warned, capsys):
    read, write = os.pipe() if kind == "pipe" else (os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    os.close(read)
    with open(write, "w") as stream:
        output = Output(stream)
        for _ in range(3):
            print("x" * 20000, file=output, flush=True)
        assert (
            capsys.readouterr().err.count("cannot be written (No space left on device): what is printed is") == warned
        )
        output.end()
        os.write(write, b"nothing fails any more")


def test_help_on_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, ROOT / "main.py", "help", "lr"]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    line = (
        "warning: <stdout> cannot be written (No space left on device): what is printed is lost, the work continues\n"
    )
    assert (done.returncode, done.stderr) == (0, line)

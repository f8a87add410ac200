"""--processes and --gpus: this program starts itself as often as they say."""

import logging
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import FAST, ROOT, UNDRAWN, cold, main
from launched import Launched
from runs import only_run, rows
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api
from wait import until

from utils import UserError
from utils.run.checkpoint_file import read_checkpoint
from utils.train import launch, processes


@pytest.mark.slow
def test_two_processes_train_one_model_and_a_signal_ends_both(tmp_path, pictures):
    options = [f"--train-data-root={pictures}", *FAST, "--processes=2"]
    done = cold("train", *options, "--max-epoch=1", cwd=tmp_path)
    printed = done.stdout
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    run = only_run(tmp_path)
    assert printed.count("finished: ") == 1 and [row["step"] for row in rows(run)] == ["7"]
    assert read_checkpoint(run / "last.pth")["run"]["step"] == 7  # of 28 samples, 4 a step over both
    command = ["train", f"--resume={run}", "--max-epoch=500", "--processes=2", "--save-freq=1"]
    resumed = Launched(*command, cwd=tmp_path, first=UNDRAWN)
    until(lambda: read_checkpoint(run / "last.pth")["run"]["step"] > 9)
    resumed.send_signal(signal.SIGTERM)
    printed, _ = resumed.communicate()
    assert resumed.returncode == 128 + signal.SIGTERM, printed
    assert f"stopped; to resume: python {ROOT / 'main.py'} train --resume=" in printed


@pytest.mark.slow
def test_an_error_that_every_process_meets_is_said_once(tmp_path):
    process = Launched("train", "--processes=2", "--train-data-root=nowhere", cwd=tmp_path)
    (line,) = (line for line in process.communicate()[0].splitlines() if line.startswith("main.py"))
    assert process.returncode == 2 and line.startswith("main.py: --train-data-root: there is no folder nowhere: ")


@pytest.fixture
def launched(monkeypatch):
    """Calls `several` with options and a launcher that raises an error, or ends. Returns (exit code, what was started:
    [(number of processes, arguments, environment)])."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(logging, "disable", lambda level: None)
    monkeypatch.setattr(sys, "argv", ["main.py", "train"])

    def call(error=None, gpus=(), processes=1):
        monkeypatch.setattr(os, "environ", {})
        started = []

        def elastic_launch(config, program):
            def run(*arguments):
                started.append((config.nproc_per_node, [program, *arguments], dict(os.environ)))
                if error:
                    raise error

            return run

        monkeypatch.setattr(api, "elastic_launch", elastic_launch)
        with pytest.raises(SystemExit) as end:
            launch.several(SimpleNamespace(gpus=list(gpus), processes=processes))
        return end.value.code, started

    return call


def test_the_chosen_gpus_or_as_many_processes_as_asked_for_share_the_cores(launched, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 13)
    command = [sys.executable, "main.py", "train"]
    gpus = {"CUDA_VISIBLE_DEVICES": "3,0", "OMP_NUM_THREADS": "6"}
    assert launched(gpus=["3", "0"]) == (None, [(2, command, gpus)])
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "OMP_NUM_THREADS": "3"}
    assert launched(gpus=["all"]) == (None, [(4, command, gpus)])
    assert launched(processes=3) == (None, [(3, command, {"OMP_NUM_THREADS": "4"})])
    with pytest.raises(UserError, match="^--gpus=0,4: torch can use 4 GPUs here: leave it out$"):
        launch.several(SimpleNamespace(gpus=["0", "4"], processes=1))


def test_the_launcher_ends_as_its_processes_did(launched):
    for code, expected in ((2, 2), (-signal.SIGKILL, 137)):
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file="none")
        assert launched(ChildFailedError("train", {0: failure}), processes=2)[0] == expected
    assert launched(SignalException("", signal.SIGTERM), processes=2)[0] == 128 + signal.SIGTERM


def test_gpus_that_are_not_there_are_one_line(tmp_path):
    done = main("train", "--gpus=all", cwd=tmp_path, check=2)
    assert done.stderr == "main.py: --gpus=all: torch can use 0 GPUs here: leave it out\n"


def test_a_machine_of_several_gpus_says_that_it_uses_one(monkeypatch, capsys):
    monkeypatch.setattr(processes, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes.start().size == 1
    assert capsys.readouterr().out == "note: training on one of 4 GPUs: --gpus=all trains on all of them\n"
    processes.start(use_gpu=False)
    assert capsys.readouterr().out == "" and "CUDA_VISIBLE_DEVICES" in os.environ

"""`doctor` on the machine: each fault of it is one line."""

import http.server
import threading
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from patients import case

from utils.doctor import machine


def test_packages_are_compared_with_the_pins():
    sound = machine.packages("torch  # a comment\n\npyyaml>=5\n")
    assert sound.verdict == "OK" and sound.found.startswith("all 2 as in requirements.txt; Python ")
    broken = machine.packages("torch==1.0\nno-such-package\npyyaml>=5\n")
    assert broken.verdict == "wrong"
    assert f"torch {metadata.version('torch')} is not ==1.0, no-such-package is missing: make setup" in str(broken)


def test_more_threads_than_a_cgroup_allows_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    limit = tmp_path / "cpu.max"
    assert "1.5" not in str(machine.processors(limit))
    limit.write_text("150000 100000\n")
    found = machine.processors(limit)
    assert found.verdict == "look" and found.advice == "OMP_NUM_THREADS=1 before the command"


def test_a_driver_without_a_gpu_for_torch_is_named(tmp_path):
    driver, cpu = tmp_path / "version", torch.device("cpu")
    assert machine.gpu(cpu, driver).verdict == "OK"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54  Tue\n")
    found = machine.gpu(cpu, driver)
    assert found.verdict == "wrong" or torch.cuda.is_available()


def test_a_precision_that_takes_long_is_named(monkeypatch):
    times = {"fp32": [4.0, 3.0], "bf16": [1.0, 5.0]}
    monkeypatch.setattr(machine, "step_times", lambda model, input, target, kinds: (len(input), times))
    monkeypatch.setattr(machine, "native_precision", lambda device: "bf16")
    found = machine.precisions(case())
    assert (found.verdict, found.advice) == ("look", "--precision=bf16 is faster here")
    times["fp32"] = [1.5]
    assert machine.precisions(case()).verdict == "OK"


def test_a_step_is_measured_in_every_precision(monkeypatch):
    monkeypatch.setattr(machine, "native_precision", lambda device: "bf16")
    found = machine.precisions(case())
    assert found.found.startswith("fp32; a step of 8 samples: fp32 ") and ", bf16 " in found.found


def test_a_full_or_slow_disk_is_named(tmp_path, monkeypatch):
    usual = case(options={"work_dir": tmp_path})
    assert machine.disk(usual).verdict == "OK" and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine, "speeds", lambda folder: (1e6, 1e9))
    assert machine.disk(usual).verdict == "look"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    found = machine.disk(usual)
    assert found.verdict == "wrong" and "make room" in found.found


def test_too_little_shared_memory_is_named(monkeypatch):
    workers = case(options={"num_workers": 3})
    assert machine.shared_memory(workers).verdict == "OK"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    found = machine.shared_memory(workers)
    assert found.verdict == "look" and found.found.startswith("3 workers need ")
    assert machine.shared_memory(case(options={"num_workers": 0})).found == "no worker processes"


@pytest.mark.parametrize(("answer", "verdict"), [(b"<title>visdom</title>", "OK"), (b"something else", "look")])
def test_what_listens_on_visdoms_port_is_named(answer, verdict):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert machine.port(server.server_port).verdict == verdict
    assert "is free" in machine.port(server.server_port).found


def test_the_speed_of_a_model_that_makes_no_step_is_not_measured():
    names = {sound: [one.name for one in machine.check(case(), sound)] for sound in (True, False)}
    assert set(names[True]) - set(names[False]) == {"precision"}

"""What the machine offers, measured: packages, processors, precisions, disk, shared memory, visdom's port."""

import contextlib
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from utils import UserError
from utils.files import megabytes
from utils.notices import counted
from utils.run import preflight
from utils.run.record import ROOT
from utils.train.device import native_precision
from utils.train.precision import step_times
from utils.train.workers import PREFETCHED, SHM, SHM_SHARE, shared_bytes
from utils.visdom.screen import other_user

from .case import Case
from .finding import LOOK, OK, WRONG, Finding, judged

SLOWER = 2.0  # a precision that takes this many times as long as another is named
PIECE = 32 << 20  # bytes that are written and read
SLOW = 10e6  # bytes per second of a disk that holds a training up
WAIT = 2.0  # seconds that a server on this machine may take
CGROUP = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, and of how many; of version 2
DRIVER = Path("/proc/driver/nvidia/version")


def check(case: Case, sound: bool) -> Iterator[Finding]:
    """Yield the Findings on the machine; its speed only where the model is sound enough to make steps."""
    yield packages((ROOT / "requirements.txt").read_text())
    yield processors()
    yield gpu(case.device, DRIVER)
    yield from [precisions(case)] if sound else ()
    yield disk(case)
    yield shared_memory(case)
    yield port(case.opt.vis_port)


def packages(requirements: str) -> Finding:
    """Whether the installed packages are those that the lines of requirements.txt ask for."""
    from packaging.requirements import Requirement  # of matplotlib

    rows = (row.partition("#")[0].strip() for row in requirements.splitlines())
    wanted = [Requirement(row) for row in rows if row]
    wrong = []
    for one in wanted:
        with contextlib.suppress(metadata.PackageNotFoundError):
            if one.specifier.contains(metadata.version(one.name), prereleases=True):
                continue
            wrong.append(f"{one.name} {metadata.version(one.name)} is not {one.specifier}")
            continue
        wrong.append(f"{one.name} is missing")
    sound = f"all {len(wanted)} as in requirements.txt; Python {platform.python_version()}, torch {torch.__version__}"
    return judged("packages", wrong, sound, "other than in requirements.txt:", "make setup")


def processors(cgroup: Path = CGROUP) -> Finding:
    """Whether torch uses as many threads as this process has processors."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed, threads = float(cores), torch.get_num_threads()
    with contextlib.suppress(OSError, ValueError):  # no limit ("max"), no Linux
        quota, period = cgroup.read_text().split()
        allowed = min(allowed, int(quota) / int(period))
    found = f"{os.cpu_count()} in the machine, {allowed:g} for this process, {threads} threads of torch"
    if threads > max(1, allowed):
        return Finding("processors", LOOK, found, f"OMP_NUM_THREADS={max(1, int(allowed))} before the command")
    return Finding("processors", OK, found)


def gpu(device: torch.device, driver: Path) -> Finding:
    """The GPU, or why it is not used."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found = f"{torch.cuda.get_device_name(device)}, {megabytes(free)} of {megabytes(total)} free"
        version = driver.read_text().split("\n")[0].partition("Module")[2].split() if driver.exists() else []
        return Finding("GPU", OK, found + (f", driver {version[0]}" if version else ""))
    if not driver.exists():
        return Finding("GPU", OK, "none, computing on the CPU")
    if torch.cuda.is_available():
        return Finding("GPU", LOOK, "there is one, and the CPU is used", "leave --use-gpu=False out")
    advice = f"a torch for it (this one is for CUDA {torch.version.cuda}), a newer driver, or docker run --gpus all"
    return Finding("GPU", WRONG, "there is a driver of NVIDIA, but torch can use no GPU", advice)


def precisions(case: Case) -> Finding:
    """Milliseconds of a training step, without the optimizer, in each precision that the device computes natively."""
    lowest = native_precision(case.device)  # what is emulated takes ten times as long, and more
    kinds = ["fp32", lowest] + ["fp16"] * (case.device.type == "cuda" and lowest == "bf16") + [case.model.precision]
    with case.copy():
        batch = next(case.batches(1))
    samples, steps = step_times(case.model, *batch, list(dict.fromkeys(kinds)))
    times = {kind: min(each) for kind, each in steps.items()}
    chosen, fastest = case.model.precision, min(times, key=lambda kind: times[kind])
    figures = ", ".join(f"{kind} {1000 * value:.3g} ms" for kind, value in times.items())
    found = f"{chosen}; a step of {counted(samples, 'sample')}: {figures}"
    if times[chosen] > SLOWER * times[fastest]:
        return Finding("precision", LOOK, found, f"--precision={fastest} is faster here")
    return Finding("precision", OK, found)


def disk(case: Case) -> Finding:
    """How fast work_dir is written and read, and whether the checkpoints have room."""
    folder, opt = preflight.existing(case.opt.work_dir), case.opt
    free = shutil.disk_usage(folder).free
    with case.copy() as model:
        try:
            arguments = opt.kwargs_for(preflight.check_room) | {"resume": None}
            preflight.check_room(model, case.optimizer(model), **arguments)
        except UserError as error:
            return Finding("disk", WRONG, str(error))
    try:
        written, back = speeds(folder)
    except OSError as error:
        return Finding("disk", WRONG, f"{folder} cannot be written: {error.strerror}", "name another --work-dir")
    found = f"{folder} is written at {megabytes(written)}/s, read at {megabytes(back)}/s, {megabytes(free)} are free"
    if written < SLOW:
        return Finding("disk", LOOK, found, "checkpoints take long: name a --work-dir on another disk")
    return Finding("disk", OK, found)


def speeds(folder: Path) -> tuple[float, float]:
    """(bytes per second that reach the disk, and that come back from it). Raises OSError."""
    data = os.urandom(PIECE)
    with tempfile.TemporaryFile(dir=folder) as file:
        begin = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - begin
        if hasattr(os, "posix_fadvise"):  # else it comes from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin = time.perf_counter()
        file.read()
        return PIECE / written, PIECE / (time.perf_counter() - begin)


def shared_memory(case: Case, folder: str = SHM) -> Finding:
    """Whether the worker processes' batches have room in shared memory."""
    wanted = case.opt.num_workers
    if wanted is None:
        wanted = 0 if case.train_data.no_workers_needed else min(8, os.cpu_count() or 1)
    if not wanted or not os.path.isdir(folder):
        return Finding("shared memory", OK, "no worker processes")
    batch = case.opt.batch_size * shared_bytes(case.train_data.collate([case.train_data[0]]))
    need, free = batch * (PREFETCHED * wanted + 2), SHM_SHARE * shutil.disk_usage(folder).free
    found = f"{wanted} workers need {megabytes(need)}, {folder} has {megabytes(free)}"
    if need > free:
        return Finding("shared memory", LOOK, found, "fewer workers are started: docker run --shm-size=1g ...")
    return Finding("shared memory", OK, found)


def port(number: int) -> Finding:
    """What listens on visdom's port."""
    name, other = "visdom", "another --vis-port, of this user's server"
    if owner := other_user(number):
        return Finding(name, LOOK, f"port {number} belongs to {owner}", other)
    try:
        with socket.create_connection(("127.0.0.1", number), WAIT) as connection:
            connection.settimeout(WAIT)
            connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = connection.makefile("rb").read(100_000)
    except ConnectionError:
        return Finding(name, OK, f"port {number} is free; `make visdom` starts a server, training needs none")
    except OSError:
        return Finding(name, LOOK, f"what listens on port {number} does not answer", other)
    if b"visdom" in answer.lower():
        return Finding(name, OK, f"a server answers on port {number}")
    return Finding(name, LOOK, f"what listens on port {number} is no visdom", other)

"""What the C library and Python are told before torch is loaded, and after it, so that a run is fast, and its CPU."""

import atexit
import contextlib
import ctypes
import gc
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
# What torch's allocators, and the libraries with allocators of their own, print where memory runs out. The last is
# oneDNN's, which prints it for other failures, too: whoever ends a program for it repeats it.
NO_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "could not create a primitive")


def prepare() -> None:
    """Let waiting threads sleep soon, keep freed memory for the next step, exit without collecting garbage."""
    # On cores shared with other work a step was 1.8 times as fast as with threads that spin while they wait for each
    # other, on idle ones 0.96 times (benchmarks/threads.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # glibc returns every large tensor to the system, and the next step's pages are filled with zeros again: a quarter
    # of SqueezeNet's step on the CPU (benchmarks/malloc.py). What is kept is what the largest step needed.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and "MALLOC_MMAP_MAX_" not in os.environ:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
    # Python's garbage collector goes through everything that is being loaded, again and again, and once more before
    # it exits: a second and a half in all, to find nothing.
    gc.disable()
    atexit.register(gc.freeze)


def loaded() -> None:
    """Collect garbage again, but not among what was loaded since prepare()."""
    gc.freeze()
    gc.enable()


def processor() -> str:
    """The CPU's name where Linux has it, else its kind."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.machine()

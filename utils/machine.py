"""What is told to the C library and to Python before torch is loaded, and after it, so that a run is fast."""

import atexit
import ctypes
import gc
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def prepare():
    """Make waiting threads sleep soon, keep freed memory for the next step, and leave without looking back."""
    # On cores shared with other work a step was 1.8 times as fast as with threads that spin while they wait for each
    # other, on idle ones 0.96 times (benchmarks/threads.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # glibc gives every large tensor back to the system, and the next step's pages are filled with zeros anew: a quarter
    # of SqueezeNet's step on the CPU (benchmarks/malloc.py). What is kept is what the largest step needed.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and "MALLOC_MMAP_MAX_" not in os.environ:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
    # Python's search for garbage goes through everything that was loaded, again and again while it is being loaded, and
    # once more before it exits: a second and a half in all, to find nothing.
    gc.disable()
    atexit.register(gc.freeze)


def loaded():
    """Search for garbage again, but not among what was loaded since prepare()."""
    gc.freeze()
    gc.enable()

"""Small disks of a test's own: laid over a folder, for one process and its children alone. Only root may do that."""

import ctypes
import os
import subprocess

import pytest

CLONE_NEWNS, MS_RDONLY, MS_REC_PRIVATE = 0x20000, 1, 0x4000 | 0x40000  # of sched.h and mount.h


def mount(folder, size, flags=0):
    """Lay an empty disk of `size` bytes over a folder, for this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()
    failed = libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC_PRIVATE, None)
    if failed or libc.mount(b"tmpfs", *disk):
        raise OSError(ctypes.get_errno(), "no disk can be mounted here", str(folder))


def mounted(folder, size, flags=0):
    """Code that does the same in a process that the fork server starts."""
    helpers = os.path.dirname(__file__)
    return (
        f"import sys\nsys.path.append({helpers!r})\nfrom disks import mount\nmount({str(folder)!r}, {size}, {flags})\n"
    )


def needs_root(folder):
    """Skip the test where no disk can be mounted."""
    try:
        subprocess.run(["true"], preexec_fn=lambda: mount(folder, 4096), check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root may mount a disk")

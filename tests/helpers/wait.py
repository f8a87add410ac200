"""Waiting for something to happen, with a deadline that only a test that hangs comes to."""

import time

import pytest

DEADLINE = 300.0  # seconds


def until(condition):
    """Call condition() until it is true; returns what it gave."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(f"it has not happened within {DEADLINE:g} seconds")
        time.sleep(0.01)
    return found

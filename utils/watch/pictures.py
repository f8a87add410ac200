"""Predictions drawn beside the truth."""

from collections.abc import Callable
from typing import Any

from utils.events import Callback


class Pictures(Callback):
    """Draws the predictions of every k-th batch of a validation, or part of one where memory ran out.

    Args:
        draw_freq: k; 0 for none.
        show: called with (name, picture), uint8 tensors [3, H, W].
    """

    def __init__(self, draw_freq: int, show: Callable[[str, Any], None]):
        self.draw_freq, self.show, self.batch = draw_freq, show, 0

    def on_test_begin(self, **_: Any) -> None:
        self.batch = 0

    def on_test_summary(self, dataset: Any, input: Any, target: Any, prediction: Any, **_: Any) -> None:
        if self.draw_freq and self.batch % self.draw_freq == 0:
            for number, picture in enumerate(dataset.draw(input, target, prediction)):
                self.show(f"val_{self.batch:04d}_{number}", picture)
        self.batch += 1

"""The losses that a run records: every print_freq steps, and once in an epoch that is too short for that."""

import pytest
from conftest import FAST, main
from runs import events, only_run, rows

STEPS, FREQ, EPOCHS = (
    7,
    10,
    4,
)  # 28 of the 40 pictures are for training: 7 steps of 4; the third epoch ends with step 21
STOPS = """
import os, signal
from utils.events import Callback

class Stops(Callback):
    def __init__(self, run):
        self.run = run

    def on_batch_end(self, **_):
        if self.run.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_an_epoch_with_fewer_steps_than_print_freq_has_a_point_of_its_mean_loss(tmp_path, pictures, stopped):
    (tmp_path / "stops.py").write_text(STOPS)
    options = [
        *FAST,
        f"--print-freq={FREQ}",
        f"--max-epoch={EPOCHS}",
        f"--callbacks={'stops.Stops' if stopped else []}",
    ]
    done = main("train", f"--train-data-root={pictures}", *options, cwd=tmp_path)
    run = only_run(tmp_path)
    if stopped:  # in the third epoch, after its point
        assert done.returncode and rows(run)[-1]["epoch"] == "2"
        main("train", f"--resume={run}", "--callbacks=[]", cwd=tmp_path, check=0)
    losses = {event["x"]: event["y"] for event in events(run) if event.get("name") == "loss"}
    assert [*losses] == [STEPS, 10, 20, EPOCHS * STEPS]
    means = {int(row["step"]): float(row["loss"]) for row in rows(run)}
    assert losses[STEPS] == means[STEPS] and losses[EPOCHS * STEPS] == means[EPOCHS * STEPS]

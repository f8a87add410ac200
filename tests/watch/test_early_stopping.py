"""--callbacks=EarlyStopping, through the real command line."""

from types import SimpleNamespace

import pytest
from conftest import FAST, main
from runs import events, only_run, rows

import config
from utils import UserError
from utils.events import Finished
from utils.run.ending import Ending
from utils.run.run import Run
from utils.watch.early_stopping import EarlyStopping, waiting

NAN = float("nan")


@pytest.mark.parametrize(
    "values, min_delta, low, waited",
    [
        ([], 0, False, 0),
        ([50], 0, False, 0),
        ([50, 50, 49, 50], 0, False, 3),
        ([50, 49, 51, 40], 0, False, 1),
        ([50, 50.4, 50.8, 51.2], 0.5, False, 1),  # against the best that counted, not against the last
        ([1.0, 0.9, 0.95, 0.8], 0, True, 0),
        ([NAN, NAN], 0, True, 2),
        ([1.0, NAN, 0.9], 0, True, 0),
    ],
)
def test_epochs_without_a_better_value_are_counted(values, min_delta, low, waited):
    assert waiting(values, min_delta, low) == waited


def test_a_run_that_gets_no_better_is_finished_also_when_it_was_resumed(tmp_path, pictures):
    """With a rate of next to nothing the first epoch stays the best."""
    options = [f"--train-data-root={pictures}", *FAST, "--lr=1e-12", "--scheduler=constant"]
    stopping = ["--callbacks=EarlyStopping", "--stop-patience=2"]
    main("train", *options, *stopping, "--max-epoch=2", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    done = main("train", f"--resume={run}", "--max-epoch=9", cwd=tmp_path, check=0)
    reason = "val_accuracy has been no better for 2 epochs (--stop-patience)"
    assert f"note: the run ends after epoch 3: {reason}\n" in done.stdout
    assert f"{run.name}, best val_accuracy 50\n" in done.stdout
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"] and (run / "lock").read_text() == "finished"
    assert any(event.get("text") == reason for event in events(run))
    assert not (run / "previous.pth").exists()
    done = main("train", *options, "--stop-patience=2", cwd=tmp_path)
    assert done.returncode == 2 and "--stop-patience belongs to --callbacks=EarlyStopping, not to none" in done.stderr


def test_a_run_resumed_after_it_had_stopped_tells_the_true_number_of_epochs(tmp_path):
    run, vis = Run(tmp_path, writes=False), SimpleNamespace(log=lambda text: None)
    stopping = EarlyStopping(run, vis, stop_patience=2, min_delta=0.0)
    stopping.rows = [{"epoch": str(epoch), "val_accuracy": "50"} for epoch in (1, 2, 3)]
    stopping.on_epoch_end({"epoch": 4, "val_accuracy": 50.0})
    assert run.over == "val_accuracy has been no better for 3 epochs (--stop-patience)"


def test_a_resumed_run_changes_its_patience_alone_and_can_drop_the_callback():
    began = config.load({"callbacks": "EarlyStopping", "stop_patience": "2"}, command="train").to_dict()
    opt = config.load({"resume": "run", "stop_patience": "10"}, command="train").over(began)
    assert (opt.callbacks, opt.stop_patience) == (["EarlyStopping"], 10)
    for none in ("[]", "None"):
        assert config.load({"resume": "run", "callbacks": none}, command="train").over(began).callbacks == []
    with pytest.raises(UserError, match="--stop-patience belongs to --callbacks=EarlyStopping, not to none"):
        config.load({"resume": "run", "callbacks": "None", "stop_patience": "10"}, command="train").over(began)


def test_all_processes_end_when_the_first_one_does(tmp_path):
    class Others:
        def all_reduce_max(self, number):
            return max(int(number), 1)

    with pytest.raises(Finished):
        Ending(Run(tmp_path, writes=False), Others()).on_epoch_end()

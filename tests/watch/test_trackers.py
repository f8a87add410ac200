"""--callbacks=TensorBoard and `replay`: what another program's files hold is what the run's record holds."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FAST, main
from PIL import Image
from runs import events, only_run

from utils.watch.tracker import Tracker

TOLD = """
from utils.watch.tracker import Tracker

class Mine(Tracker):
    def scalar(self, name, step, value, time):
        with open(self.folder / "mine.txt", "a") as file:
            file.write(f"{name} {step} {value!r}\\n")
"""


def drawn(run):
    """{name: {x: y}} of the record, the last value of each point."""
    found = {}
    for event in events(run):
        if event["kind"] == "plot":
            found.setdefault(event["name"], {})[event["x"]] = event["y"]
    return found


def read_back(run):
    """({name: {step: value}}, {name: [pictures]}) as TensorBoard's own reader finds them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    names = [name for name in found.Tags()["scalars"] if not name.startswith("last/")]
    scalars = {name: {one.step: one.value for one in found.Scalars(name)} for name in names}
    assert {name: len(found.Scalars(name)) for name in names} == {name: len(points) for name, points in scalars.items()}
    return scalars, {name: found.Images(name) for name in found.Tags()["images"]}


def same(found, record):
    assert found.keys() == record.keys() and {"loss", "lr", "val_accuracy"} <= found.keys()
    for name, points in record.items():
        assert found[name] == pytest.approx({x: np.float32(y) for x, y in points.items()}, rel=1e-6)


def test_tensorboard_has_the_record_live_resumed_and_replayed(tmp_path, pictures):
    pytest.importorskip("tensorboard")
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=2", "--print-freq=2", "--draw-freq=2"]
    main("train", *options, "--callbacks=TensorBoard", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    same(read_back(run)[0], drawn(run))
    main("train", f"--resume={run}", "--max-epoch=3", cwd=tmp_path, check=0)
    scalars, images = read_back(run)
    same(scalars, drawn(run))
    assert len(scalars["val_accuracy"]) == 3 and sum(map(len, images.values())) == len(list(run.glob("images/*.png")))
    first = images["val_0000_0"][0]
    assert (first.width, first.height) == Image.open(run / "images" / "val_0000_0_001.png").size

    done = main("replay", f"--run={run.name}", "--to=TensorBoard", cwd=tmp_path, check=0)
    assert "is handed over to TensorBoard" in done.stdout
    again, _ = read_back(run)
    assert again == scalars


def test_a_tracker_of_the_users_gets_a_recorded_run(trained, tmp_path):
    _, run, _ = trained
    (tmp_path / "my_file.py").write_text(TOLD)
    main("replay", f"--run={run}", "--to=my_file.Mine", cwd=tmp_path, check=0)
    lines = (run / "mine.txt").read_text().splitlines()
    (run / "mine.txt").unlink()
    assert sorted(lines) == sorted(
        f"{name} {int(x)} {y!r}" for name, points in drawn(run).items() for x, y in points.items()
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give --run=NAME and --to=TensorBoard, say"),
        (["--run=nowhere", "--to=my_file.Mine"], "nowhere: no such run, also not in checkpoints"),
        (["--run=x", "--to=Curves"], "--to=Curves does not read a run's record"),
        (["--run=x", "--to=my_file.Needy"], "Needy needs a package that is not installed: pip install no_such_package"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(options, message, tmp_path):
    (tmp_path / "my_file.py").write_text(TOLD + "class Needy(Mine):\n    needs = 'no_such_package'\n")
    done = main("replay", *options, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_tracker_passes_over_what_other_programs_wrote(tmp_path):
    class Collects(Tracker):
        def begin(self):
            self.got = []

        def scalar(self, *point):
            self.got.append(point)

    (tmp_path / "events.jsonl").write_text('{"kind": "plot", "name": "a", "x": 1, "y": null, "time": 0}\nrubbish\n[]\n')
    tracker = Collects(SimpleNamespace(folder=tmp_path))
    tracker.on_train_begin()
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"kind": "other"}\n{"kind": "plot", "name": "a", "x": 2, "y": 0.5, "time": 7}\n')
    tracker.on_epoch_end()
    tracker.on_epoch_end()
    assert tracker.got == [("a", 2, 0.5, 7)]

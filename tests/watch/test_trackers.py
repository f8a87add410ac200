"""--callbacks=TensorBoard,Trackio,ClearML and `replay`: another program's files hold what the run's record holds."""

import contextlib
import importlib.util
import json
import shutil
import sqlite3
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FAST, main
from PIL import Image
from runs import events, only_run
from wait import until

from utils import UserError
from utils.options.options import read_yaml
from utils.watch import ClearML, Trackio, tracker
from utils.watch.tracker import Tracker

TOLD = """
from utils.watch.tracker import Tracker

class Mine(Tracker):
    def scalar(self, name, step, value, time):
        with open(self.folder / "mine.txt", "a") as file:
            file.write(f"{name} {step} {value!r}\\n")
"""


def needs(package):
    """Skip where it is not installed. Nothing is imported: trackio would read its folder, ClearML change Python."""
    if not importlib.util.find_spec(package):
        pytest.skip(f"needs {package}")


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


def hyper_parameters(run):
    """What TensorBoard's page HPARAMS reads: ({option: value}, {measure: its last value})."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    last = {name[5:]: found.Scalars(name)[-1].value for name in found.Tags()["scalars"] if name.startswith("last/")}
    return {name: getattr(one, one.WhichOneof("kind")) for name, one in options.items()}, last


def in_data_base(folder, run):
    """({name: {step: value}}, {name: [files of pictures]}, options) that trackio's data base has of a run."""
    with contextlib.closing(sqlite3.connect(folder / "hearth.db")) as base:
        rows = base.execute("select step, metrics, timestamp from metrics where run_name = ?", (run,)).fetchall()
        ((config,),) = base.execute("select config from configs where run_name = ?", (run,)).fetchall()
    scalars, images = {}, {}
    for step, text, time in rows:
        ((name, value),) = json.loads(text).items()
        if isinstance(value, dict):
            images.setdefault(name, []).append(folder / "media" / value["file_path"])
        else:
            assert step not in scalars.setdefault(name, {}) and time.endswith("+00:00")
            scalars[name][step] = value
    return scalars, images, json.loads(config)


def test_trackers_have_the_record_live_resumed_and_replayed(tmp_path, pictures, zipped):
    needs("tensorboard")
    needs("trackio")
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=2", "--print-freq=2", "--draw-freq=2"]
    done = main("train", *options, "--callbacks=TensorBoard,Trackio", cwd=tmp_path, check=0)
    assert len(done.stderr.splitlines()) == 1  # that there is no visdom server
    run = only_run(tmp_path)
    same(read_back(run)[0], drawn(run))
    assert in_data_base(run / "trackio", run.name)[0] == drawn(run)
    main("train", f"--resume={run}", "--max-epoch=3", cwd=tmp_path, check=0)
    scalars, images = read_back(run)
    same(scalars, drawn(run))
    assert len(scalars["val_accuracy"]) == 3 and sum(map(len, images.values())) == len(list(run.glob("images/*.png")))
    first = images["val_0000_0"][0]
    assert (first.width, first.height) == Image.open(run / "images" / "val_0000_0_001.png").size

    values, last = hyper_parameters(run)
    assert values["lr"] == 0.001 and values["model"] == "SqueezeNet" and values["max_epoch"] == 3
    assert last == {name: points[max(points)] for name, points in scalars.items()} and "val_accuracy" in last

    points, copies, config = in_data_base(run / "trackio", run.name)
    assert points == drawn(run) and config["lr"] == 0.001 and config["max_epoch"] == 3
    pixels = sorted(one.read_bytes() for one in run.glob("images/*.png"))
    assert sorted(one.read_bytes() for files in copies.values() for one in files) == pixels
    assert len(list(run.glob("trackio/media/**/*.png"))) == len(pixels)

    for name in ("TensorBoard", "Trackio"):
        done = main("replay", f"--run={run.name}", f"--to={name}", cwd=tmp_path, check=0)
        assert f"is handed over to {name}" in done.stdout
    assert read_back(run)[0] == scalars and in_data_base(run / "trackio", run.name)[0] == points


def test_trackio_writes_into_the_users_folder_and_names_a_second_one_in_the_process(trained, tmp_path, monkeypatch):
    needs("trackio")
    _, run, _ = trained
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "all"))
    Trackio(SimpleNamespace(folder=run)).replay()
    assert in_data_base(tmp_path / "all", run.name)[0] == drawn(run) and not (run / "trackio").exists()
    monkeypatch.delenv("TRACKIO_DIR")
    with pytest.raises(UserError, match="in this process trackio writes into .*all: set TRACKIO_DIR for all runs"):
        Trackio(SimpleNamespace(folder=run)).replay()


@pytest.fixture(scope="module")
def zipped(trained, tmp_path_factory):
    """A copy of a run that has just ended: ClearML's process works on it while the other tests run."""
    needs("clearml")
    _, run, _ = trained
    copy = tmp_path_factory.mktemp("zipped") / run.name
    shutil.copytree(run, copy)
    (copy / "source_1.diff").write_text("+ what was changed\n")
    (copy / "images").mkdir(exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(copy / "images" / "val_001.png")
    with open(copy / "events.jsonl", "a") as file:
        file.write('{"kind": "image", "name": "val", "file": "images/val_001.png", "time": 1}\n')
    ClearML(SimpleNamespace(folder=copy)).on_train_end(finished=True)
    return copy


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
    collects = Collects(SimpleNamespace(folder=tmp_path))
    collects.on_train_begin()
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"kind": "other"}\n{"kind": "plot", "name": "a", "x": 2, "y": 0.5, "time": 7}\n')
    collects.on_epoch_end()
    collects.on_epoch_end()
    collects.on_train_end()
    assert collects.got == [("a", 2, 0.5, 7)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_tracker_that_hangs_or_fails_is_one_warning_and_nobody_waits(fails, tmp_path, monkeypatch, capsys):
    class Bad(Tracker):
        def begin(self):
            if fails:
                raise OSError("disk full")
            threading.Event().wait()

    monkeypatch.setattr(tracker, "PATIENCE", 0.1)
    bad = Bad(SimpleNamespace(folder=tmp_path))
    bad.on_train_begin()
    if fails:
        bad.thread.join()
    for _ in range(100):
        bad.on_train_summary()
    bad.on_epoch_end()
    assert bad.sizes.qsize() <= 1
    bad.on_train_end()
    (line,) = capsys.readouterr().err.splitlines()
    wanted = "Bad fails: OSError: disk full (" if fails else "Bad is not ready 0 seconds after the end, and is left"
    assert line.startswith(f"warning: the callback {wanted}")
    assert fails or f"replay --run={tmp_path} --to=Bad" in line


def test_a_zip_of_clearml_that_lacks_points_is_named_and_not_kept(tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.writestr("metrics.jsonl", '[{"type": "training_stats_scalar"}]')
    unfinished = ClearML(SimpleNamespace(folder=tmp_path))
    unfinished.points, unfinished.describe_code = 2, lambda: None
    unfinished.task = SimpleNamespace(
        connect=lambda *_, **__: None, close=lambda: None, get_offline_mode_folder=lambda: tmp_path / "task"
    )
    with pytest.raises(OSError, match="1 of 2 points are in"):
        unfinished.end({}, {})
    assert not (tmp_path / "clearml.zip").exists()


def test_the_zip_of_clearml_has_the_record_the_code_the_options_and_the_model(zipped):
    """Last in this file: it was begun first."""
    until((zipped / "clearml.zip").exists)
    with zipfile.ZipFile(zipped / "clearml.zip") as archive:
        files = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist()}
        (picture,) = [name for name in archive.namelist() if name.endswith(".png")]
        assert archive.read(picture) == (zipped / "images" / "val_001.png").read_bytes()
    assert files["best.pth"] == (zipped / "best.pth").read_bytes()
    lines = [one for line in files["metrics.jsonl"].splitlines() for one in json.loads(line)]
    points, summary = {}, {}
    for one in lines:
        if one["metric"] == "Summary":
            summary[one["variant"]] = one["value"]
        elif one["type"] == "training_stats_scalar":
            points.setdefault(one["metric"], {})[one["iter"]] = one["value"]
    assert points == drawn(zipped)
    assert summary == {name: values[max(values)] for name, values in points.items()}
    said = "".join(one["msg"] for line in files["log.jsonl"].splitlines() for one in json.loads(line))
    assert all(one["text"] in said for one in events(zipped) if one["kind"] == "log")

    task, start = json.loads(files["task.json"]), read_yaml(zipped / "config.yaml", ())["run"][-1]
    assert task["name"] == zipped.name and task["hyperparams"]["Args"]["lr"]["value"] == "0.001"
    assert task["configuration"]["config.yaml"]["value"] == (zipped / "config.yaml").read_text()
    assert task["script"]["version_num"] == (start["git_commit"] or "")
    assert task["script"]["diff"] == "+ what was changed\n"
    assert f"torch=={start['versions']['torch']}" in task["script"]["requirements"]["pip"].splitlines()
    until(lambda: not (zipped / "clearml").exists())

"""`predict` and predict_files: any pictures, one after the other, with the names of the classes."""

import csv
import io
import json
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FAST, draw, main
from PIL import Image

import config
import models
from data.coco.preparation import BoxPreparation
from data.pictures.preparation import MaskPreparation
from utils import UserError
from utils.deploy import inputs
from utils.deploy.predict import Files
from utils.deploy.predictor import Predictor


@pytest.fixture(scope="module")
def results(trained, unlabelled, tmp_path_factory):
    """{id: probability of a dog} as `test` writes them."""
    file = tmp_path_factory.mktemp("test") / "result.csv"
    main("test", f"--test-data-root={unlabelled}", f"--result-file={file}", *FAST[1:3], cwd=trained[0], check=0)
    return {row["id"]: float(row["label"]) for row in csv.DictReader(file.open())}


def test_predict_says_what_test_says_and_names_what_it_cannot_read(trained, unlabelled, results, tmp_path):
    shutil.copytree(unlabelled, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    options = "--input=" + str(tmp_path / "pictures"), "--format=csv", f"--output={tmp_path / 'drawn'}", "--draw"
    done = main("predict", *options, cwd=trained[0], check=0, drawn=True)
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    dogs = {row["path"].split("/")[-1][:-4]: float(row["score"]) for row in rows if row["class"] == "dog"}
    assert dogs == pytest.approx(results, abs=2e-6)
    assert f"warning: {tmp_path / 'pictures' / 'broken.jpg'} is not predicted: " in done.stderr
    assert "predicted 12 of 13 pictures" in done.stderr
    assert len([*(tmp_path / "drawn").glob("*_drawn.png")]) == 12


def test_where_nothing_can_be_read_the_exit_code_is_1(trained, tmp_path):
    (tmp_path / "a.jpg").write_text("nothing")
    done = main("predict", f"--input={tmp_path / 'a.jpg'}", cwd=trained[0], check=1)
    assert done.stdout == ""
    (tmp_path / "file").touch()
    for options, why in (
        ([], "predict needs --input"),
        (["--input=z.jpg"], "--input=z.jpg: there is no such file"),
        (["--input=a.jpg", "--output=file", "--draw"], "--output=file is a file: name a folder"),
    ):
        done = main("predict", *options, cwd=tmp_path, check=2)
        assert why in done.stderr and done.stderr.count("\n") == 1, "before a model is looked for: there is none"


def test_a_model_in_a_program_predicts_without_options(trained, unlabelled, results, tmp_path):
    model = models.load(str(trained[1]))
    (tmp_path / "broken.jpg").write_text("nothing")
    found = model.predict_files([unlabelled / "1.jpg", tmp_path / "broken.jpg", str(unlabelled / "2.jpg")], top=1)
    assert [one.path for one in found] == [
        str(unlabelled / "1.jpg"),
        str(tmp_path / "broken.jpg"),
        f"{unlabelled}/2.jpg",
    ]
    assert "of no kind" in found[1].error and found[1].found == ()
    assert model.predict_files(f"{unlabelled}/2.jpg", top=1) == found[2:], "a single path"
    for one, id in ((found[0], "1"), (found[2], "2")):
        (best,) = one.found
        assert best.name == ("dog" if results[id] > 0.5 else "cat")
        assert best.score == pytest.approx(max(results[id], 1 - results[id]), abs=2e-6)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not say which model it is of"):
        models.load(str(tmp_path / "other.pth"))


def test_only_some_batches_of_pictures_are_read_ahead(trained, unlabelled):
    model, taken = models.load(str(trained[1])), []
    endless = (taken.append(1) or unlabelled / "1.jpg" for _ in iter(int, 1))
    predictions = Predictor(model, model.info["config"], batch_size=4)(endless)
    assert [len(next(predictions).found) for _ in range(10)] == [2] * 10
    assert len(taken) < 200
    predictions.close()


def test_every_way_to_name_pictures(tmp_path, monkeypatch):
    def listed(given):
        return [str(path) for path in inputs.paths(inputs.named(given), lambda folder: sorted(tmp_path.glob("*.jpg")))]

    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.jpg", "b.jpg", "c,d.jpg", "e[1].jpg")):
        draw(tmp_path / name, "cat", number)
    everything = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c,d.jpg", "e[1].jpg")]
    assert listed("a.jpg") == ["a.jpg"] and listed("c,d.jpg") == ["c,d.jpg"] and listed("e[1].jpg") == ["e[1].jpg"]
    assert listed("b.jpg, a.jpg") == ["b.jpg", "a.jpg"]
    assert listed("[ab].jpg") == ["a.jpg", "b.jpg"]
    assert listed(str(tmp_path)) == everything
    (tmp_path / "list").write_bytes(b"a.jpg\n\n of two words.jpg\r\n\xff.jpg")
    with open("list") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert listed("-,a.jpg") == ["a.jpg", " of two words.jpg", "\udcff.jpg", "a.jpg"]
    for wrong, why in (("z.jpg", "no such file"), ("z*.jpg", "no file matches"), ("a.jpg,z", "--input=z: there is no")):
        with pytest.raises(UserError, match=why):
            inputs.named(wrong)


def test_a_path_from_a_pipe_is_answered_when_it_is_there(trained, unlabelled, monkeypatch):
    """The rest of the paths is written after the answer to the first."""
    source, sink = os.pipe()
    rescue = threading.Timer(30, os.close, [sink])  # who waits for the rest finds that there is none
    rescue.start()
    model = models.load(str(trained[1]))
    with os.fdopen(source) as file:
        monkeypatch.setattr("sys.stdin", file)
        predictions = Predictor(model, model.info["config"])(inputs.paths(inputs.named("-"), list))
        for name in ("1.jpg", "2.jpg"):
            os.write(sink, f"{unlabelled / name}\n".encode())
            assert next(predictions).path == str(unlabelled / name)
        os.write(sink, f"{unlabelled / '3.jpg'}\n{unlabelled / '4.jpg'}".encode())
        rescue.cancel(), os.close(sink)
        assert [one.path for one in predictions] == [str(unlabelled / name) for name in ("3.jpg", "4.jpg")]


def test_boxes_are_in_the_pictures_own_pixels(tmp_path):
    draw(tmp_path / "a.jpg", "cat", 1, size=(96, 48))
    prepared = BoxPreparation(["background", "cat", "dog"], image_size=48)
    pixels, fact = prepared.read(tmp_path / "a.jpg")
    assert pixels.shape == (24, 48, 3)
    boxes = torch.tensor([[0.0, 0, 24, 12], [1, 2, 3, 4]])
    detections = {"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.75, 0.25])}
    result = prepared.result(tmp_path / "a.jpg", fact, detections)
    assert [(*one,) for one in result.found] == [("dog", 0.75, (0, 0, 48, 24)), ("cat", 0.25, (2, 4, 6, 8))]
    assert len(result.detail["boxes"]) == 1  # what is sure enough to be drawn
    ((ending, image),) = prepared.files(result, draw=True)
    assert ending == "_drawn.png" and image.width % 48 == 0


def test_a_mask_has_its_pictures_size_and_pictures_of_one_name_do_not_share_it(tmp_path):
    prepared = MaskPreparation(["ground", "thing", "never"], image_size=32)
    files = Files(prepared, tmp_path / "out", draw=True)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        draw(tmp_path / folder / "a.jpg", "cat", 1, size=(40, 20))
        pixels, fact = prepared.read(tmp_path / folder / "a.jpg")
        prediction = torch.zeros(3, *pixels.shape[:2])
        prediction[0, :, :8], prediction[1, :, 8:] = 1, 1
        result = prepared.result(tmp_path / folder / "a.jpg", fact, prediction)
        assert [(one.name, round(one.score, 2)) for one in result.found] == [("thing", 0.75), ("ground", 0.25)]
        mask = np.asarray(Image.open(files.write(result)))
        assert mask.shape == (20, 40) and mask[0, 0] == 0 and mask[-1, -1] == 1
    Image.new("RGB", (9, 9)).save(tmp_path / "out" / "b.png")
    theirs = (tmp_path / "out" / "b.png").read_bytes()
    again = Files(prepared, tmp_path / "out", draw=True)
    for name in ("a.jpg", "b.jpg"):
        again.write(prepared.result((tmp_path / "two" / "a.jpg").rename(tmp_path / "two" / name), fact, prediction))
        (tmp_path / "two" / name).rename(tmp_path / "two" / "a.jpg")
    assert (tmp_path / "out" / "b.png").read_bytes() == theirs, "its own alone are replaced"
    names = ["a.png", "a_2.png", "a_2_drawn.png", "a_drawn.png", "b.png", "b_2.png", "b_2_drawn.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_mask_is_what_the_picture_covers_where_it_keeps_its_proportions(tmp_path):
    draw(tmp_path / "a.jpg", "cat", 1, size=(40, 20))
    prepared = MaskPreparation(["ground", "thing"], image_size=32, fit="pad")
    pixels, fact = prepared.read(tmp_path / "a.jpg")
    prediction = torch.zeros(2, *pixels.shape[:2])
    prediction[0, :8], prediction[1, 8:24], prediction[0, 24:] = 1, 1, 1
    assert (pixels[:8] == pixels[0, 0]).all() and not (pixels[8] == pixels[0, 0]).all()
    result = prepared.result(tmp_path / "a.jpg", fact, prediction)
    assert result.found == (("thing", 1.0, None),) and result.detail.shape == (20, 40)


def test_json_has_a_line_per_picture(trained, unlabelled):
    done = main("predict", f"--input={unlabelled}/1.jpg", "--format=json", "--top=1", cwd=trained[0], check=0)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["path"].endswith("1.jpg") and [*line["found"][0]] == ["class", "score"] and len(line["found"]) == 1


def test_points_are_no_pictures():
    with pytest.raises(UserError, match="predict is for pictures"):
        Predictor(SimpleNamespace(info={"classes": ["a", "b"]}), {"dataset": "Heart"})


def test_masks_are_written_into_output_without_draw_and_a_table_is_not(trained, tmp_path):
    draw(tmp_path / "a.jpg", "cat", 0)
    done = main("predict", f"--input={tmp_path / 'a.jpg'}", "--output=a.csv", cwd=trained[0], check=2)
    assert "--output=a.csv is the folder for --draw: give both, or print into a file, > a.csv" in done.stderr
    model = models.UNet(2, width=0.05)
    options = config.load({"config": "Segmentation", "model": "UNet", "width": 0.05, "image_size": 32})
    model.info |= {"classes": ["ground", "cat"], "config": options.to_dict()}
    model.save(str(tmp_path / "best.pth"))
    main("predict", "--load-model-path=best.pth", "--input=a.jpg", "--output=masks", cwd=tmp_path, check=0)
    assert [path.suffix for path in (tmp_path / "masks").iterdir()] == [".png"]

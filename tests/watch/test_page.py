"""index.html: what a run and a report leave behind, on one page."""

import os
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import FAST, main
from PIL import Image
from runs import only_run

from data import DogCat
from utils.watch.page import write_page


class Page(HTMLParser):
    """The addresses that a page names, the tags that it opens, and its text."""

    def __init__(self, folder):
        super().__init__()
        self.addresses, self.tags, self.words = [], [], []
        self.feed((folder / "index.html").read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)

    def files(self):
        return [unquote(address.partition("?")[0]) for address in self.addresses if not address.startswith("#")]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the short run."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("best_report*"))
    (folder,) = (tmp_path / "checkpoints").iterdir()
    write_page(folder)  # another test may have measured the run, which links its page to the report
    return folder


def test_a_run_has_a_page_of_all_that_it_wrote(run):
    page = Page(run)
    assert f"{run.name} model SqueezeNet, pictures of 32 pixels data DogCat of " in page.text
    assert "epochs 2 of 2 best epoch " in page.text and "main.py train --train-data-root=" in page.text
    assert all((run / file).exists() for file in page.files())
    assert {path.name for path in run.glob("*.png")} < set(page.files())
    assert "best.pth" in page.files() and not {"last.pth", "previous.pth", "lock"} & set(page.files())
    assert not {"script", "link", "iframe"} & set(page.tags) and "//" not in "".join(page.addresses)
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", (run / "index.html").read_text(), flags=re.DOTALL)
    assert page.tags.count("table") == len([path for path in run.glob("*.csv") if path.read_text().count("\n") > 1])


def test_val_writes_a_page_and_the_one_of_the_run_links_to_it(run, tmp_path):
    assert "best_report/index.html" not in Page(run).files()
    main("val", "--draw-freq=1", "--cam=1", cwd=tmp_path, check=0, drawn=True)
    page = Page(run / "best_report")
    assert {"val_0000_0.png", "cam_000.png", "confusion.png"} <= set(page.files())
    assert "samples 12" in page.text and "curves.png" not in page.files()
    assert "best_report/index.html" in Page(run).files()


LOOKS = """
import shutil, torch
from utils.events import Callback

class Looks(Callback):
    def __init__(self, run, step):
        self.run, self.step = run, step

    def on_batch_end(self, **facts):
        torch.save(self.step.batch, self.run.folder / f"batch_{self.run.step}.pt")

    def on_test_begin(self, **facts):  # before the first report
        shutil.copytree(self.run.folder, "early", ignore=lambda folder, names: set(names) - {"index.html", IMAGE})

IMAGE = "train_batch_0.png"
"""


def test_the_page_shows_the_last_training_batch_as_the_model_saw_it_from_the_first_step_on(tmp_path, pictures):
    (tmp_path / "looks.py").write_text(LOOKS)
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--callbacks=looks.Looks", "--mixup=0.5"]
    done = main("train", *options, cwd=tmp_path, check=0)
    run, data = only_run(tmp_path), DogCat(pictures, "train", image_size=32)
    for folder, step in ((tmp_path / "early", 1), (run, 7)):
        page = Page(folder)
        assert {"train_batch_0.png", "config.yaml"} <= set(page.files()) and "Of the last training batch" in page.text
        batch = torch.load(run / f"batch_{step}.pt")
        with Image.open(folder / "train_batch_0.png") as drawn:
            assert (np.array(drawn).transpose(2, 0, 1) == data.draw(*batch, None)[0].numpy()).all()
    assert "warning: the" not in done.stderr


def test_the_newest_pictures_come_first_and_names_are_no_html(tmp_path):
    folder = tmp_path / "a <b>run & more"
    (folder / "images").mkdir(parents=True)
    for number in range(70):
        (folder / "images" / f"val_0000_0_{number:03d}.png").touch()
        os.utime(folder / "images" / f"val_0000_0_{number:03d}.png", (number, number))
    (folder / "report.csv").write_text("class,f1\n<script>alert(1)</script>,0.123456789\n")
    (folder / "own #1.png").touch()
    (folder / "epoch_002").mkdir()
    (folder / "config.yaml").write_text("- damaged\n")
    write_page(folder)
    page = Page(folder)
    shown = [name for name in page.files() if name.startswith("images/")]
    assert shown[0] == "images/val_0000_0_069.png" and len(shown) == 2 * 60  # a picture is a link too
    assert {"own #1.png", "epoch_002/"} <= set(page.files()) and not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)</script> 0.1235" in page.text


def test_a_page_that_is_not_hearths_stays_and_is_a_warning(run, capsys):
    mine = "<html>my page about all of my runs</html>"
    (run / "index.html").write_text(mine)
    write_page(run)
    assert (run / "index.html").read_text() == mine
    assert capsys.readouterr().err == f"warning: {run}/index.html is not written: another page has that name\n"
    (run / "best_report").mkdir()
    write_page(run / "best_report")
    assert Page(run / "best_report").text and (run / "index.html").read_text() == mine


def test_a_page_that_cannot_be_written_is_a_warning(run, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.watch.page.write_atomically", full)
    write_page(run)
    assert "index.html is not written: " in capsys.readouterr().err

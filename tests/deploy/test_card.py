"""`card` says what is on record of a run, in Markdown, and nothing else."""

import shutil

import pytest
import yaml
from conftest import main
from runs import measures, rows

import config
import main as program
from utils import UserError
from utils.deploy.card import MARK, card, confused, plain, table
from utils.run.resume import find_best


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of a run's folder."""
    return shutil.copytree(trained[1], tmp_path / "checkpoints" / "pets", ignore=shutil.ignore_patterns("best_report*"))


def written(folder, **options):
    card(program, config.load({"work_dir": folder.parent, **options}, None, "card"))
    return (folder / "MODEL_CARD.md").read_text()


def test_a_card_has_data_training_quality_and_limits(trained, copy):
    (copy / "broken.txt").write_text("a.jpg (cut off)\nb.jpg (empty)\n")
    record = yaml.safe_load((copy / "config.yaml").read_text())
    (start,) = record["run"]
    start |= {"git_commit": "abc123", "git_dirty": True}
    (copy / "config.yaml").write_text(yaml.safe_dump(record))
    done = main("card", "--run=pets", "--licence=CC BY 4.0", cwd=copy.parent.parent, check=0)
    assert done.stdout == "wrote checkpoints/pets/MODEL_CARD.md\n"
    text = (copy / "MODEL_CARD.md").read_text()
    assert text.startswith(f"{MARK}\n\n# SqueezeNet: pets\n") and "- **licence**: CC BY 4.0\n" in text
    assert "| class | trained on | validated on |\n| --- | --- | --- |\n| cat | 14 | 6 |\n| dog | 14 | 6 |\n" in text
    assert "- **left out**: 2 samples that could not be read (broken.txt)\n" in text
    assert "- **commit**: abc123 with changes\n" in text and f"python {start['command'][0]} train" in text
    assert f"torch {start['versions']['torch']}" in text and "`--image-size=32`" in text
    assert f"| accuracy | {measures(copy)['accuracy']:.4g} |" in text and "](curves.png)" in text
    best = max(rows(copy), key=lambda row: (float(row["val_accuracy"]), -int(row["epoch"])))["epoch"]
    ours = "best.pth" if best == "2" else "the model of epoch 2, which is not best.pth"
    assert f"- **best epoch**: epoch {best}, " in text and f"**the numbers below are of**: {ours}" in text
    assert "It was measured on 12 samples: a single one of them is 8.3 %." in text


def test_the_report_on_the_best_model_is_preferred(copy):
    report = copy / "best_report"
    report.mkdir()
    (report / "measures.csv").write_text("name,value\naccuracy,12.5\n")
    (report / "about.yaml").write_text("data: DogCat of here\nsamples: 8\ndate: today\n")
    text = written(copy)
    assert "best.pth on 8 samples of DogCat of here, today" in text and "| accuracy | 12.5 |" in text


def test_the_checkpoint_alone_is_enough(copy):
    for path in copy.iterdir():
        if path.name != "best.pth":
            path.unlink()
    text = written(copy)
    assert (
        "| cat | 14 |  |" in text
        and "- **data set**: not on record\n" in text
        and "- **started**: not on record" in text
    )
    assert written(copy) == text, "its own card is replaced"


def test_a_data_set_without_pictures_has_none_in_its_card(copy):
    record = yaml.safe_load((copy / "config.yaml").read_text())
    text = written(copy)
    assert (
        "- **input**: pictures of 32 pixels\n" in text
        and f"- **data set**: DogCat of {record['train_data_root'][0]}" in text
    )
    (copy / "config.yaml").write_text(yaml.safe_dump(record | {"dataset": "Heart"}))
    text = written(copy)
    assert "- **data set**: Heart\n" in text and "pixels" not in text and "camera" not in text


def test_somebody_elses_card_stays_and_what_is_missing_is_one_line(copy):
    (copy / "MODEL_CARD.md").write_text("# My model\n")
    with pytest.raises(UserError, match="MODEL_CARD.md was not written by this command, and stays"):
        written(copy)
    (copy / "MODEL_CARD.md").unlink()
    (copy / "MODEL_CARD.md").mkdir()
    with pytest.raises(UserError, match="MODEL_CARD.md cannot be written"):
        written(copy)
    with pytest.raises(UserError, match="--run=gone: no such run"):
        written(copy, run="gone")


def test_names_are_shown_as_they_are():
    assert plain("a|b\n<c> *d* `--x_y`") == "a\\|b \\<c\\> \\*d\\* `--x_y`"
    assert table(("class",), [[str(number)] for number in range(60)])[1] == "and 10 more, in the run's folder"
    counts = [{"t": "a", "a": "5", "b": "1", "c": "3"}, {"t": "b", "a": "2", "b": "9", "c": "0"}]
    assert confused(counts) == [(3, "a", "c"), (2, "b", "a"), (1, "a", "b")]


def test_a_model_that_lies_deeper_is_named(tmp_path):
    (tmp_path / "folds" / "fold").mkdir(parents=True)
    (tmp_path / "folds" / "fold" / "best.pth").touch()
    for command in ("card", "val"):
        with pytest.raises(
            UserError, match=f"best.pth does not exist; --run={tmp_path}/folds/fold takes one that lies"
        ):
            find_best(config.load({"work_dir": str(tmp_path)}, None, command))

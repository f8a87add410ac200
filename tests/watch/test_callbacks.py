"""--callbacks=my_file.MyCallback: a user's own observer, through the real command line."""

import pytest
from conftest import FAST, main
from runs import differences, only_run

from utils.run.checkpoint_file import read_checkpoint

MY_FILE = """
from pathlib import Path

from utils.events import Callback

class MyCallback(Callback):
    def __init__(self, run, model, lr, vis, greeting="hello"):
        self.run, self.vis = run, vis
        print(greeting, run.folder.name, type(model).__name__, lr)

    def on_epoch_end(self, metrics, **facts):
        with open(self.run.folder / "mine.txt", "a") as file:
            file.write(f"{metrics['epoch']} {self.run.step}\\n")
        self.vis.plot("my_curve", metrics["epoch"] / 2)

class Asks(Callback):
    def __init__(self, run, temperature):
        pass
"""


def test_a_class_in_a_file_of_the_users_watches_a_run(tmp_path, pictures):
    (tmp_path / "my_file.py").write_text(MY_FILE)
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=2", "--lr=0.002"]
    done = main("train", *options, "--callbacks=my_file.MyCallback", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    assert f"hello {run.name} SqueezeNet 0.002\n" in done.stdout and "callback" not in done.stderr
    assert (run / "mine.txt").read_text() == "1 7\n2 14\n"
    assert "callbacks.png" in (run / "index.html").read_text() and (run / "callbacks.png").exists()
    assert (run / "source_1_my_file.py").read_text() == MY_FILE, "no diff of hearth's own code has it"
    # A resumed run has the callbacks that it began with, and another list takes their place.
    done = main("train", f"--resume={run}", "--max-epoch=3", cwd=tmp_path, check=0)
    assert "hello " in done.stdout and (run / "mine.txt").read_text() == "1 7\n2 14\n3 21\n"
    main("train", f"--resume={run}", "--max-epoch=4", "--callbacks=[]", cwd=tmp_path, check=0)
    assert (run / "mine.txt").read_text() == "1 7\n2 14\n3 21\n"


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_file.MyCallback", "cannot be loaded: ModuleNotFoundError: No module named 'no_file'"),
        ("my_file.Nobody", "cannot be loaded: AttributeError: module 'my_file' has no attribute 'Nobody'"),
        ("wrong.MyCallback", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("half.MyCallback", "cannot be loaded: SyntaxError: "),
        (
            "my_file.Asks",
            ": nothing is called temperature; a callback's constructor may name options of config.py and ",
        ),
    ],
)
def test_a_callback_that_cannot_be_made_is_one_line_before_anything_is_trained(name, message, tmp_path, pictures):
    (tmp_path / "my_file.py").write_text(MY_FILE)
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "half.py").write_text("class MyCallback(\n")
    done = main("train", f"--train-data-root={pictures}", *FAST, f"--callbacks={name}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("warning: visdom", "note: "))]
    assert line.startswith(f"main.py: --callbacks={name}") and message in line
    assert not (tmp_path / "checkpoints").exists()


def test_an_observer_that_draws_random_numbers_changes_no_number_and_val_does_without_it(tmp_path, pictures):
    for name, code in (("quiet", "pass"), ("loud", "torch.rand(5)")):
        text = "import torch\nfrom utils.events import Callback\n\nclass Draws(Callback):\n"
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(f"{text}    def on_batch_begin(self, **_):\n        {code}\n")
        options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1"]  # SqueezeNet has dropout
        main("train", *options, f"--callbacks={name}.Draws", cwd=tmp_path / name, check=0)
    weights = [read_checkpoint(only_run(tmp_path / name) / "last.pth")["weights"] for name in ("quiet", "loud")]
    assert differences(*weights) == []
    checkpoint = only_run(tmp_path / "loud") / "best.pth"
    (tmp_path / "loud" / "loud.py").unlink()
    main("val", f"--load-model-path={checkpoint}", cwd=tmp_path / "loud", check=0)


def test_a_method_that_is_no_event_and_a_constructor_that_fails_are_one_line(tmp_path, pictures):
    text = "from utils.events import Callback\n\nclass Odd(Callback):\n    def on_epoch_ends(self):\n        pass\n\n"
    text += "class Fails(Callback):\n    def __init__(self):\n        raise KeyError('x')\n"
    (tmp_path / "odd.py").write_text(text)
    for name, message in (
        ("Odd", ": on_epoch_ends is no event; did you mean on_epoch_end"),
        ("Fails", " cannot be made: "),
    ):
        done = main("train", f"--train-data-root={pictures}", *FAST, f"--callbacks=odd.{name}", cwd=tmp_path, check=2)
        assert f"main.py: --callbacks=odd.{name}{message}" in done.stderr

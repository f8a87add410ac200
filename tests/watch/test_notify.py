"""--callbacks=Notify --notify=COMMAND: a real command, started by the real command line."""

from types import SimpleNamespace

import pytest
from conftest import FAST, main
from runs import only_run

from utils import UserError
from utils.watch.notify import Notify

SCRIPT = """#!/bin/sh
echo "$HEARTH_EVENT|$1|$2" >> "$HEARTH_RUN/told.txt"
cat >> "$HEARTH_RUN/read.txt"
"""


@pytest.fixture
def options(tmp_path, pictures):
    script = tmp_path / "tell me.sh"
    script.write_text(SCRIPT)
    script.chmod(0o700)
    return [f"--train-data-root={pictures}", *FAST, "--callbacks=Notify", f"--notify='{script}' 'two words'"]


def test_a_command_hears_of_the_best_epochs_and_of_the_end(options, tmp_path):
    main("train", *options, "--max-epoch=2", "--monitor=loss", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    told = [line.split("|") for line in (run / "told.txt").read_text().splitlines()]
    assert all(words == "two words" and text.startswith(f"{run.name}: ") for _, words, text in told)
    assert (run / "read.txt").read_text().splitlines() == [text for *_, text in told], "on its standard input, too"
    assert told[-1][0] == "finished" and "finished after 2 epochs, best 0." in told[-1][2]
    assert [event for event, *_ in told[:-1]] in (["best"], [])  # the first epoch is no news


@pytest.mark.parametrize(
    "options, message",
    [
        (["--callbacks=Notify"], "--callbacks=Notify needs --notify, "),
        (["--notify=mail"], "--notify belongs to --callbacks=Notify, not to none"),
    ],
)
def test_half_of_it_is_one_line(options, message, tmp_path, pictures):
    done = main("train", f"--train-data-root={pictures}", *FAST, *options, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong, why", [("no-such-command -v", "there is no such command"), ("mail 'x", "No closing")])
def test_a_command_that_does_not_exist_is_refused_before_the_training(wrong, why, tmp_path):
    with pytest.raises(UserError, match=f"^--notify={wrong}: {why}"):
        Notify(SimpleNamespace(folder=tmp_path), wrong)


@pytest.mark.parametrize("command, code", [("false", 1), ("cat >> notify.log", 1), ("sh -c 'exit 3'", 3), ("cat", 0)])
def test_a_command_that_fails_is_one_warning(command, code, tmp_path, capsys):
    told = Notify(SimpleNamespace(folder=tmp_path, best=None, epoch=1), command)
    told.tell("best", "a line")
    told.on_train_end(finished=True, error=None)
    warning = f"warning: --notify={command}: exit code {code}; it gets the line as its last argument and on its "
    assert capsys.readouterr().err.count(warning) == bool(code)

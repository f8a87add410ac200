"""The command sweep: trials are trained, killed, resumed and compared, and none is lost or trained twice."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import runs
from conftest import FAST, UNDRAWN, main, server
from wait import until

import config
from utils import UserError
from utils.options.options import read_yaml
from utils.run.guard import Diverged
from utils.search import command
from utils.search.space import Space
from utils.search.study import TRIES, Study, claim, counts, hold
from utils.search.summary import folder_of
from utils.search.worker import DONE, FAILED, NOTHING_LEFT, SPARED, Watch, median, take, train

# Kills the process of trial 1 at its fifth step, once: the last checkpoint is that of the fourth.
KILLER = """
import os, signal
from utils.events import Callback
class Once(Callback):
    def __init__(self, run):
        self.run = run
    def on_batch_end(self, **_):
        if self.run.step == 5 and self.run.folder.name == "sweep_0001" and not os.path.exists("killed"):
            os.mkdir("killed")
            os.kill(os.getpid(), signal.SIGKILL)
"""
TRAINING = [*FAST, "--max-epoch=1", "--save-freq=2", "--callbacks=killer.Once", "--use-gpu=False"]
SWEEP = ["--lr=1e-4..1e-2", "--trials=4", "--jobs=2"]


def starts(run):
    """How often a run was started."""
    return len(read_yaml(run / "config.yaml", ())["run"])


@pytest.fixture(scope="module")
def swept(tmp_path_factory, pictures):
    """(folder, its four runs, what a sweep printed until it was stopped, what it printed when it was started again)."""
    cwd = tmp_path_factory.mktemp("swept")
    (cwd / "killer.py").write_text(KILLER)
    options = [f"--train-data-root={pictures}", *TRAINING, *SWEEP]
    (cwd / "output").touch()
    server().start("sweep", *options, cwd=cwd, first=UNDRAWN)
    ends = "a process was killed", "failed", "Traceback", "main.py: "  # the last three: where it is broken
    until(lambda: any(word in (cwd / "output").read_text() for word in ends))
    os.kill(server().pid, signal.SIGTERM)
    assert server().wait() == 128 + signal.SIGTERM
    done = main("sweep", *options, cwd=cwd, check=0)
    return cwd, sorted((cwd / "checkpoints").glob("sweep_*/")), (cwd / "output").read_text(), done.stdout


def test_a_trial_that_is_killed_or_stopped_is_resumed_and_none_is_lost_or_trained_twice(swept):
    _, folders, first, _ = swept
    assert "a process was killed by SIGKILL: its trial is resumed" in first
    assert "stopped; to continue: python " in first and "Traceback" not in first
    assert [one.name for one in folders] == [f"sweep_{number:04d}" for number in range(4)]
    assert [(one / "lock").read_text() for one in folders] == ["finished"] * 4
    assert [len(runs.rows(one)) for one in folders] == [1] * 4
    resumed = [(one / "output.txt").read_text().count("\nresuming ") for one in folders]
    assert [starts(one) for one in folders] == [1 + times for times in resumed] and resumed[1] >= 1
    assert "resuming checkpoints/sweep_0001 after 0 epochs and 4 batches" in (folders[1] / "output.txt").read_text()


def test_a_killed_trial_ends_in_the_bits_of_an_undisturbed_run(swept, tmp_path, pictures):
    _, folders, *_ = swept
    values = [read_yaml(one / "config.yaml", ())["lr"] for one in folders]
    assert len(set(values)) == 4
    (tmp_path / "killer.py").write_text(KILLER)
    main("train", f"--train-data-root={pictures}", *TRAINING, f"--lr={values[1]!r}", cwd=tmp_path, check=0)
    assert runs.differences(runs.state(folders[1]), runs.state(runs.only_run(tmp_path))) == []


def test_the_end_shows_the_best_first_the_command_that_repeats_it_and_pictures(swept):
    cwd, folders, _, printed = swept
    values = {one.name: float(runs.rows(one)[0]["val_accuracy"]) for one in folders}
    table = [line.split() for line in printed.partition("\ntrial  state")[2].splitlines()[1:5]]
    assert [line[1] for line in table] == ["finished"] * 4
    shown = [values[f"sweep_{int(line[0]):04d}"] for line in table]
    assert shown == sorted(values.values(), reverse=True)
    best = cwd / "checkpoints" / f"sweep_{int(table[0][0]):04d}"
    assert f"--lr={read_yaml(best / 'config.yaml', ())['lr']}" in printed.partition("best: ")[2].splitlines()[0]
    assert f"its model: checkpoints/{best.name}/best.pth" in printed
    assert {path.name for path in (cwd / "checkpoints").glob("*.png")} >= {"sweep_history.png", "sweep_slices.png"}
    assert "utils.search" not in (best / "config.yaml").read_text()  # the same options again report to no study


def test_a_study_of_other_ranges_is_refused():
    about, now = ({"ranges": {"lr": text}, "options": {}} for text in ("0.1 to 0.2", "0.1 to 0.3"))
    with pytest.raises(UserError, match="--study=a holds a sweep of other ranges, --lr: 0.1 to 0.2: give these, or"):
        Study("a", "a", "a").check(about, now)


def test_a_study_of_trainings_with_other_options_is_refused():
    about = {"ranges": {}, "options": {"flip": "0.5", "model": "SqueezeNet"}}
    Study("a", "a", "a").check(about, {"ranges": {}, "options": {"flip": "0.5", "younger": "1"}})
    with pytest.raises(UserError, match="--study=a holds a sweep with --flip=0.5, not 0.1"):
        Study("a", "a", "a").check(about, {"ranges": {}, "options": {"flip": "0.1"}})


@pytest.mark.parametrize("content", [b"no journal\n", b'{"op_code":0', b'{"op_code":0,"worker_id":"a"}\n'])
def test_a_damaged_study_is_one_line(tmp_path, content):
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"--study={path}"), Study.at(str(path), str(tmp_path)).opened() as storage:
        storage.get_all_studies()
    assert path.read_bytes() == content


class Owner(multiprocessing.get_context("fork").Process):
    """A process that claims a trial, and then is killed, or waits until it is."""

    def __init__(self, where, wanted=9, dies=False):
        self.here, there = multiprocessing.Pipe()
        super().__init__(target=self.own, args=(where, wanted, dies, there), daemon=True)
        self.start()
        there.close()  # else it would be waited for ever, where the process fails
        self.number = self.here.recv()

    @staticmethod
    def own(where, wanted, dies, there):
        with where.opened() as storage:
            found = claim(where.found(storage), where, wanted, lambda *_: optuna.samplers.RandomSampler(seed=0))
            there.send(found and found.trial.number)
            if found and not dies:
                signal.pause()

    def end(self):
        self.kill()
        self.join()


@pytest.fixture(params=["journal", "sqlite"])
def where(tmp_path, request):
    """A study without trials, in a file or a database."""
    address = {"journal": str(tmp_path / "a.journal"), "sqlite": f"sqlite:///{tmp_path}/a.db"}[request.param]
    found = Study.at(f"{address}#cats", str(tmp_path / "runs"))
    with found.opened() as storage:
        found.begin(storage, {"measure": "val_loss", "ranges": {}, "options": {}})
    return found


@pytest.mark.parametrize("reason, state", [(None, "COMPLETE"), ("pruned, it is poor", "PRUNED")])
def test_a_process_that_was_killed_behind_its_run_leaves_what_came_out(swept, tmp_path, reason, state):
    """Nothing is trained again: what the run's folder says is told."""
    folder = shutil.copytree(swept[1][0], tmp_path / "run")
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    value = max(float(row["val_accuracy"]) for row in runs.rows(folder))
    trial.report(value, 1)
    if reason:
        trial.set_user_attr("pruned", reason)
        (folder / "lock").write_text("unfinished")
    line, code = train(None, None, study, SimpleNamespace(trial=trial, folder=folder), {"lr": 0.1}, False)
    (told,) = study.get_trials()
    assert (told.state.name, told.value, code) == (state, value, DONE)
    assert (folder / "lock").read_text() == "finished" and told.number == 0
    assert line.endswith(f"after 1 epoch{', pruned, it is poor' * bool(reason)} (--lr=0.1)")


@pytest.mark.parametrize(
    "error, begun, turn, state, void",
    [
        (UserError("no such folder"), False, False, "FAIL", True),
        (UserError("no such folder"), False, True, "FAIL", False),
        (RuntimeError("no kernel"), True, False, "FAIL", False),
        (Diverged("20 steps in a row were skipped", 20), True, False, "PRUNED", None),
    ],
)
def test_what_a_failure_does_to_its_trial(tmp_path, error, begun, turn, state, void):
    def fails(opt):
        if begun:
            (tmp_path / "lock").write_text("diverged" if isinstance(error, Diverged) else "unfinished")
            (tmp_path / "last.pth").touch()
        raise error

    study = optuna.create_study(direction="maximize")
    program, space = SimpleNamespace(train=fails), Space({}, {}, config.load)
    line, code = train(program, space, study, SimpleNamespace(trial=study.ask(), folder=tmp_path), {"lr": 0.1}, turn)
    (told,) = study.get_trials()
    assert (told.state.name, told.user_attrs.get("void")) == (state, void)
    assert str(error) in told.user_attrs["reason"] and str(error) in line
    assert code == (DONE if state == "PRUNED" else FAILED) and counts(told) is not void


def test_the_trial_of_a_process_that_is_gone_is_taken_again_only_where_its_lock_can_be_seen(where, monkeypatch):
    first = Owner(where)
    second = Owner(where)
    first.end()
    third = Owner(where)
    monkeypatch.setenv("HEARTH_MACHINE", "another")
    second.end()
    fourth = Owner(where)
    monkeypatch.delenv("HEARTH_MACHINE")
    fifth, sixth = Owner(where, wanted=3), Owner(where, wanted=3)
    assert [one.number for one in (first, second, third, fourth, fifth, sixth)] == [0, 1, 0, 2, 1, None]
    for one in (third, fourth, fifth, sixth):
        one.end()
    assert sorted(path.name for path in Path(where.work_dir).iterdir() if path.is_dir()) == [
        "cats_0000",
        "cats_0001",
        "cats_0002",
    ]


@pytest.mark.parametrize("where", ["journal"], indirect=True)
def test_a_trial_that_kills_its_process_again_and_again_has_failed(where):
    for _ in range(TRIES):
        assert Owner(where, dies=True).number == 0
    last = Owner(where, dies=True)
    assert last.number == 1
    with where.opened() as storage:
        trial = where.found(storage).get_trials()[0]
        assert trial.state.name == "FAIL" and "killed 3 times at the same point" in trial.user_attrs["reason"]


@pytest.mark.parametrize("where", ["journal"], indirect=True)
def test_of_two_machines_that_begin_a_trial_at_once_one_gives_way(where, monkeypatch):
    """Both have seen that one is left to be begun."""
    with where.opened() as storage:
        study = where.found(storage)
        get, seen = study.get_trials, []

        def trials(**options):
            found = get(**options)
            if not seen:
                seen.append(study.ask())  # another machine's
            return found

        monkeypatch.setattr(study, "get_trials", trials)
        assert claim(study, where, 1, lambda *_: study.sampler) is None
        assert [(one.state.name, one.user_attrs.get("void")) for one in get()] == [
            ("RUNNING", None),
            ("FAIL", "not needed"),
        ]


@pytest.mark.parametrize("steps", [[5], [6], [2, 6], [4, 6]])
@pytest.mark.parametrize("where", ["journal"], indirect=True)
def test_no_trial_repeats_another_one_and_all_combinations_are_tried_however_trials_grow(where, steps):
    space = command.plan({"seed": "1,2,3", "flip": "0,0.5"}, config.load).space
    with where.opened() as storage:
        study, found = where.found(storage), []
        for wanted in steps:
            turns = space.combinations(wanted, lambda opt: None)
            for _ in range(wanted - len(found)):
                one, chosen = take(study, where, wanted, space, lambda opt: None, turns)
                (one.folder / "lock").touch()
                study.tell(one.trial.number, 1.0)
                found.append(chosen)
            assert take(study, where, wanted, space, lambda opt: None, turns) == (None, {})
        assert all(one not in found[:number] for number, one in enumerate(found))
        assert len(list(Path(where.work_dir).glob("cats_*/"))) == len(found)


@pytest.mark.parametrize("where", ["journal"], indirect=True)
def test_at_last_a_combination_that_is_left_is_taken(where):
    space = command.plan({"seed": "1,2,3", "flip": "0,0.5"}, config.load).space
    with where.opened() as storage:
        study, found = where.found(storage), []
        for _ in range(5):
            one, chosen = take(study, where, 5, space, lambda opt: None, [])
            study.tell(one.trial.number, float(chosen["seed"] != "1"))  # TPE comes back to what was best
            (one.folder / "lock").touch()
            found.append(chosen)
        assert all(one not in found[:number] for number, one in enumerate(found))


@pytest.mark.parametrize("where", ["journal"], indirect=True)
def test_a_trial_that_has_ended_meanwhile_and_a_folder_elsewhere_are_left_alone(where, tmp_path):
    with where.opened() as storage:
        study = where.found(storage)
        first = claim(study, where, 2, lambda _: study.sampler)
        seen = study.get_trials()[0]
        study.tell(first.trial.number, 1.0)
        first.holder.close()
        assert hold(study, where, seen, lambda _: study.sampler) is None, "as another process saw it"
        second = claim(study, where, 2, lambda _: study.sampler)
        (tmp_path / "elsewhere").mkdir()
        second.trial.set_user_attr("folder", str(tmp_path / "elsewhere"))
        second.holder.close()
        assert claim(study, where, 2, lambda _: study.sampler).folder.parent == Path(where.work_dir)
        assert not any((tmp_path / "elsewhere").iterdir())


def test_a_password_is_not_printed():
    where = Study.at("postgresql://cat:secret@host/db", "runs")
    assert where.shown == "postgresql://cat:***@host/db"
    other = Study.at("postgresql://cat:se@ret@host/db?password=secret&a=b", "runs")
    assert other.shown == "postgresql://cat:***@host/db?password=***&a=b"
    trial = SimpleNamespace(user_attrs={"place": where.place(), "folder": "../elsewhere"})
    assert folder_of(trial, where) == Path("runs/elsewhere"), "others write into a study, too"
    with pytest.raises(UserError, match=r"postgresql://cat:\*\*\*@host/db cannot be used"), where.opened():
        pass


@pytest.mark.parametrize(
    "codes, left, calls",
    [
        ([FAILED, FAILED, DONE, FAILED, FAILED, DONE, NOTHING_LEFT], 0, 7),
        ([FAILED] * 3, 1, command.IN_A_ROW),
        ([-9] * command.DEATHS, command.KILLED, command.DEATHS),
        ([-9, NOTHING_LEFT], 0, 2),
    ],
)
def test_processes_are_replaced_until_nothing_is_left_or_too_many_fail_in_a_row(tmp_path, capfd, codes, left, calls):
    def ends(slot):
        with open(tmp_path / "calls", "ab") as file:
            file.write(b".")
            code = codes[file.tell() - 1]
        os.kill(os.getpid(), -code) if code < 0 else os._exit(code)

    assert command.run_workers(ends, (), 1) == left
    assert (tmp_path / "calls").stat().st_size == calls
    assert capfd.readouterr().out.count("was killed by SIGKILL") == codes.count(-9)


def test_a_run_ends_where_its_best_is_worse_than_the_median_and_is_given_a_quarter_of_its_epochs():
    study = optuna.create_study(direction="minimize", pruner=median())
    for number in range(SPARED):
        trial = study.ask()
        for epoch in range(1, 5):
            trial.report(1.0 + number, epoch)
        study.tell(trial, 1.0 + number)

    def ends_after(*values):
        state = SimpleNamespace(run=SimpleNamespace(over=""), schedule=SimpleNamespace(max_epoch=4))
        watch = Watch(study.ask(), set(), "val_loss", state)
        for epoch, value in enumerate(values, start=1):
            watch.on_epoch_end({"val_loss": value, "epoch": epoch})
            if state.run.over:
                assert state.run.over == f"pruned, val_loss {value:g} is worse than the median of the other trials"
                assert watch.trial.user_attrs["pruned"] == state.run.over
                return epoch
        return None

    assert ends_after(9.0, 9.0, 9.0, 9.0) == 2
    assert ends_after(9.0, 2.0, 9.0, 9.0) is None
    assert ends_after(1.0, 1.0, 1.0, 9.0) is None

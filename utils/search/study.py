"""The study of a sweep, kept by Optuna: who trains which trial, and what came out. No trial is trained by two processes
at a time, and none is forgotten.

A trial belongs to the place where it was begun: a machine and its work_dir. Its run's folder has a file that its
process holds a lock on, and the lock ends with the process. Only there can the lock be seen, so only there the trial of
a process that is gone is found, and resumed; other places leave it alone.
"""

import contextlib
import json
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from utils import UserError
from utils.files import lock, numbered
from utils.notices import counted
from utils.options.kinds import dashed
from utils.run.run import GLANCES, in_training

from .space import Dimension

HOLDER = "trial.txt"  # file in a run's folder on which its process holds a lock, whatever the run's own is doing
ABOUT = "hearth"  # what the study itself keeps: its measure, ranges and other options
TRIES = 3  # starts from the same checkpoint that ended with a killed process
DRIVERS = {"psycopg": '"psycopg[binary]"', "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # their packages
DATABASES = ".db", ".sqlite", ".sqlite3"  # suffixes that are taken for SQLite's
LONGEST = 1_000_000  # bytes of a journal in which its last line is
MACHINE = "HEARTH_MACHINE"  # in the environment: processes with the same value see each other's locks


class Study(NamedTuple):
    """Where a study is kept.

    Attributes:
        address: a file, or sqlite:///... or postgresql://...
        name: of one of several studies there; run folders begin with it.
        work_dir: folder of the runs.
    """

    address: str
    name: str
    work_dir: str

    @classmethod
    def at(cls, address: str | None, work_dir: str) -> "Study":
        """The study that --study=ADDRESS#NAME names; None: a file in work_dir. Raises UserError."""
        place, _, name = (address or str(Path(work_dir, "sweep.journal"))).partition("#")
        if Path(name).name != name:
            raise UserError(f"--study=...#{name}: {name!r} cannot begin the name of a folder: leave / and .. out")
        if "://" not in place and Path(place).suffix in DATABASES:
            raise UserError(
                f"--study={address}: a database is written --study=sqlite:///{place}, a journal has another suffix"
            )
        return cls(place, name or "sweep", work_dir)

    @property
    def shown(self) -> str:
        """The address without a password."""
        return re.sub("(://[^:/@]*:).*(?=@)|(?<=password=)[^&]*", r"\1***", self.address)

    def place(self) -> str:
        """This machine and its work_dir."""
        return f"{os.environ.get(MACHINE) or socket.gethostname()}:{os.path.realpath(self.work_dir)}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """The storage, of Optuna. Nothing of it is left open behind the block, because processes are forked there.
        Raises UserError for one that cannot be used."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        storage: Any = None
        close: list[Callable[[], None]] = []
        try:
            if "://" in self.address:
                wait = {"connect_args": {"timeout": 60}} if self.address.startswith("sqlite") else {}
                storage = optuna.storages.RDBStorage(self.address, engine_kwargs=wait)
                close = [storage.remove_session, storage.engine.dispose]
            else:
                Path(self.address).parent.mkdir(parents=True, exist_ok=True)
                refuse_cut_off(self.address)
                # Its lock is a link to the file: a relative one would lead elsewhere, and one that was left never ends.
                storage = optuna.storages.JournalStorage(JournalFileBackend(os.path.abspath(self.address)))
            yield storage
        except UserError:
            raise
        except Exception as error:  # SQLAlchemy's, a driver's, those of a damaged file
            broken = storage is None or "optuna" in type(error).__module__ or "sqlalchemy" in type(error).__module__
            if not broken:
                raise
            lacks = getattr(error.__cause__, "name", "") if isinstance(error, ImportError) else ""
            hint = f"; pip install {DRIVERS.get(lacks, lacks)}" if lacks else ""
            reason = f"{type(error).__name__}: {[*str(error).strip().splitlines(), ''][0]}{hint}"
            line = f"--study={self.shown} cannot be used: repair it, or name another one ({reason})"
            raise UserError(line) from error
        finally:
            for each in close:
                each()

    def found(self, storage: Any) -> Any:
        """The study with this name, of optuna, or None."""
        import optuna

        with contextlib.suppress(KeyError):
            return optuna.load_study(study_name=self.name, storage=storage)
        return None

    def begin(self, storage: Any, about: dict[str, Any]) -> None:
        """Make the study. about: {"measure": ..., "ranges": ..., "options": ...}."""
        import optuna

        direction = optuna.study.StudyDirection(1 if about["measure"].endswith("loss") else 2)  # as for best.pth
        study = optuna.create_study(storage=storage, study_name=self.name, direction=direction, load_if_exists=True)
        study.set_user_attr(ABOUT, about)

    def check(self, about: dict[str, Any], now: dict[str, Any]) -> None:
        """Raise UserError where the study is one of other ranges, or of trainings with other options."""
        another = f"name another study, --study={self.shown}#another say"
        if about["ranges"] != now["ranges"]:
            then = "; ".join(f"{dashed(name)}: {text}" for name, text in about["ranges"].items())
            raise UserError(f"--study={self.shown} holds a sweep of other ranges, {then}: give these, or {another}")
        for name, value in now["options"].items():
            if value != (then := about["options"].get(name, value)):
                raise UserError(
                    f"--study={self.shown} holds a sweep with {dashed(name)}={then}, not {value}: its trials could "
                    f"not be compared; {another}"
                )


def refuse_cut_off(path: str) -> None:
    """Raise UserError for a journal whose last line is not whole: Optuna leaves it out, and fails at the next one."""
    for _ in range(GLANCES):  # another process may be writing it
        if whole(path):
            return
        time.sleep(0.1)
    raise UserError(f"--study={path} is damaged, or no journal: its last line is not whole: remove it, or name another")


def whole(path: str) -> bool:
    """Whether the last line of a journal is whole; True where there is none."""
    if not os.path.exists(path):
        return True
    with open(path, "rb") as file:
        file.seek(-min(file.seek(0, os.SEEK_END), LONGEST), os.SEEK_END)
        *_, line = [b"{}\n", *file.readlines()]
    with contextlib.suppress(ValueError):
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    return False


def counts(trial: Any) -> bool:
    """Whether a trial of the study is one of those that were asked for: it has trained, or will."""
    return not trial.user_attrs.get("void")


class Claim:
    """A trial that this process alone may train, until it ends.

    Attributes:
        trial: optuna.Trial.
        folder: the run's.
    """

    def __init__(self, trial: Any, folder: Path, holder: IO[Any]):
        self.trial, self.folder, self.holder = trial, folder, holder

    def drop(self) -> None:
        """Remove the folder of a trial that was not begun."""
        self.holder.close()
        (self.folder / HOLDER).unlink()
        self.folder.rmdir()


@contextlib.contextmanager
def guarded(where: Study) -> Iterator[None]:
    """Meanwhile no other process here claims a trial, or gives one up: who claims one has its lock before another
    process looks."""
    Path(where.work_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(where.work_dir, f"{where.name}.claims"), "ab") as guard:
        lock(guard, wait=True)
        yield


def claim(
    study: Any,
    where: Study,
    wanted: int,
    sampler: Callable[[Any], Any],
    given: Callable[[list[Any]], dict[str, Any] | None] = lambda trials: None,
) -> Claim | None:
    """A trial to train: one that was begun here and whose process is gone, or a new one; None where `wanted` trials
    have been begun.

    Args:
        study: of optuna.
        wanted: number of trials.
        sampler: gives the sampler, of optuna, for a trial.
        given: the values of a new trial, by those of the others, or None, where the sampler chooses them.
    """
    import optuna

    with guarded(where):
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == optuna.trial.TrialState.RUNNING and frozen.user_attrs.get("place") == where.place():
                if found := hold(study, where, frozen, sampler):
                    return found
        if sum(map(counts, trials)) >= wanted:
            return None
        attrs = {"place": where.place(), "given": given(trials)}
        # With its place from the start: if the process were killed now, no place would own it.
        new = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attrs)
        id = study._storage.create_new_trial(study._study_id, new)
        trials = study.get_trials(deepcopy=False)
        (frozen,) = [one for one in trials if one._trial_id == id]
        if order(trials, frozen) >= wanted:  # another machine was quicker
            study._storage.set_trial_user_attr(id, "void", "not needed")
            study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
            return None
        return hold(study, where, frozen, sampler)


def give_up(study: Any, where: Study, found: Claim, reason: str) -> None:
    """End a trial that was claimed and not begun; it does not count."""
    with guarded(where):
        fail(study, found.trial, reason, void=True)
        found.drop()


def order(trials: list[Any], one: Any) -> int:
    """How many of the trials that count were begun before one of them."""
    return sum(counts(trial) for trial in trials if trial.number < one.number)


def hold(study: Any, where: Study, frozen: Any, sampler: Callable[[Any], Any]) -> Claim | None:
    """Take a trial that runs, or would, unless another process works on it, or has ended it by now."""
    import optuna

    name = str(frozen.user_attrs.get("folder", ""))
    folder = Path(where.work_dir, name)
    inside = name not in ("", "..") and Path(name).name == name  # others write into a study, too
    if not inside or not folder.is_dir():  # new, or somebody has deleted it
        folder = new_folder(where, frozen.number)
        study._storage.set_trial_user_attr(frozen._trial_id, "folder", folder.name)
    holder = open(folder / HOLDER, "ab", buffering=0)  # noqa: SIM115 - open for life
    if not lock(holder) or in_training(folder):  # the latter where somebody resumes it by hand
        holder.close()
        return None
    frozen = study._storage.get_trial(frozen._trial_id)
    if frozen.state != optuna.trial.TrialState.RUNNING:  # its process told what came out, and let the lock go
        holder.close()
        return None
    if not (folder / HOLDER).stat().st_size:
        holder.write(f"trial {frozen.number} of {where.name}\n".encode())
    written = (folder / "last.pth").stat().st_mtime_ns if (folder / "last.pth").exists() else 0
    before, times = frozen.user_attrs.get("stood") or (None, 0)
    times = times + 1 if before == written else 1
    study._storage.set_trial_user_attr(frozen._trial_id, "stood", [written, times])
    if times > TRIES:
        fail(study, frozen, f"its process was killed {counted(TRIES, 'time')} at the same point: out of memory?")
        return None
    study.sampler = sampler(frozen)
    return Claim(optuna.trial.Trial(study, frozen._trial_id), folder, holder)


def new_folder(where: Study, number: int) -> Path:
    """Make <work_dir>/<study>_<number>, never one that exists."""
    for folder in numbered(Path(where.work_dir, f"{where.name}_{number:04d}")):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbered() has no end")


def fail(study: Any, trial: Any, reason: str, void: bool = False) -> None:
    """End a trial that gives nothing; a void one, which has not trained at all, does not count."""
    import optuna

    storage = study._storage
    storage.set_trial_user_attr(trial._trial_id, "reason", reason)
    storage.set_trial_user_attr(trial._trial_id, "void", void)
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)


def suggest(trial: Any, name: str, one: Dimension) -> Any:
    """A value of one option for a trial; the same one when it is asked again."""
    if not one.span:
        return trial.suggest_categorical(name, one.values)
    ask = trial.suggest_int if isinstance(one.values[0], int) else trial.suggest_float
    return ask(name, *one.values, log=one.log)

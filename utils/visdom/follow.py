"""Keep a visdom server up to date with the runs in a folder: it draws what is added to their records."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from utils.files import locked

from .screen import Screen, Unreachable, read_events

EVERY = 2.0  # seconds between two looks at the records
NEWEST = "default"  # the environment that shows the run which was started or resumed last


def find_records(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the records of all runs below a folder. A run's own folders, which may hold many pictures, are skipped."""
    for path, folders, files in os.walk(folder):
        if "events.jsonl" in files:
            folders.clear()
            yield Path(path, "events.jsonl")


def local(env: str, port: int, record: Path | None = None) -> Screen:
    """A Screen of the server at `port` of this machine, on which nothing of the record is drawn yet."""
    return Screen(env, {"port": port, "server": "http://127.0.0.1"}, record)


class Record:
    """A run's record, as far as it was read.

    Attributes:
        size: bytes that were read, whole lines.
        started: when the run was started or resumed last, in seconds since 1970.
        env, port: where its training draws it.
        screens: {env: Screen} that were drawn here.
    """

    def __init__(self, path: Path):
        self.path, self.size, self.started = path, 0, 0.0
        self.env: str | None = None
        self.port: int | None = None
        self.screens: dict[str, Screen] = {}

    def read(self) -> None:
        """Read what was added; all of it again where the file became shorter. Raises OSError."""
        size = os.path.getsize(self.path)
        if size < self.size:
            vars(self).update(vars(Record(self.path)))
        if size > self.size:
            with open(self.path, "rb") as file:
                file.seek(self.size)
                added = file.read().rpartition(b"\n")  # after it: what is being written
            end = self.size + len(added[0] + added[1])
            for event in read_events(self.path, self.size, end - self.size):
                if event.get("kind") == "env":
                    with suppress(LookupError, TypeError, ValueError):  # other programs may have edited the file
                        self.started, self.env, self.port = float(event["time"]), str(event["env"]), event.get("port")
            self.size = end

    def in_training(self) -> bool:
        """Whether a process works on the run."""
        with suppress(OSError):
            return locked(self.path.with_name("lock"))
        return False


class Follower:
    """Draws the runs below a folder on the server at `port` of this machine: each in the environment named like its
    folder and in that of its --env, and with `newest` the newest one in NEWEST, too.

    Where a live training draws its run itself, it is left alone; when that has ended, the run is drawn whole.
    """

    def __init__(self, folder: str | os.PathLike[str], port: int, newest: bool = True):
        self.folder, self.port, self.newest = folder, port, newest
        self.records: dict[Path, Record] = {}

    def look(self) -> None:
        """Draw what was added to the records since the last look, the newest run last, because runs may share the env
        of their --env. A run that cannot be drawn is a warning, and tried again at the next look."""
        self.records = {path: self.records.get(path) or Record(path) for path in find_records(self.folder)}
        for record in self.records.values():
            with suppress(OSError):  # it was deleted
                record.read()
        records = sorted(self.records.values(), key=lambda record: record.started)
        for record in records:
            envs = [env for env in dict.fromkeys([record.path.parent.name, record.env]) if env and env != NEWEST]
            if self.newest and record is records[-1]:
                envs.append(NEWEST)
            record.screens = {env: record.screens.get(env) or local(env, self.port, record.path) for env in envs}
        screens = [(record, screen) for record in records for screen in record.screens.values()]
        screens.sort(key=lambda pair: pair[1].env != NEWEST)  # whoever looks at that one waits for no other
        for record, screen in screens:
            if screen.drawn != record.size:
                self.draw(record, screen)

    def draw(self, record: Record, screen: Screen) -> None:
        """Draw on a screen what its record has more; whole where the training has drawn, too."""
        if screen.env == record.env and record.port in (None, self.port):
            screen.drawn = 0
            if record.in_training():
                return
        try:
            screen.connect()
            if screen.env == NEWEST and not screen.drawn:
                screen.client.close(env=NEWEST)  # all its windows
            while screen.drawn != record.size:
                screen.draw_record(screen.drawn, record.size)
        except (OSError, Unreachable) as error:
            screen.drawn = 0
            screen.warn("unreachable", f"cannot show {record.path} ({error})")
        finally:
            screen.client = None  # of many runs the connections would be too many

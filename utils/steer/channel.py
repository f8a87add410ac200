"""How a command reaches a run that is being trained: a socket that its user alone can open, or where only the file
system is shared, a file in the run's folder. No torch here."""

import contextlib
import hashlib
import json
import os
import queue
import socket
import stat
import struct
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import UserError
from utils.files import private_folder, write_atomically
from utils.run.run import in_training
from utils.run.terminal import HERE, Caller, Here

LONGEST = 65536  # bytes of a command
FILES = "control"  # folder in the run's folder for commands that come as files
LOST = "{} ended without an answer: look at its state with `python main.py runs`"
OVER = "the run ended before the end of its next step"
LOOK = 1.0  # seconds between two looks for files


def address(folder: Path, rank: int = 0) -> Path:
    """The socket on which process `rank` listens that trains the run in `folder`. It is in a folder of the user's: the
    run's own path could be too long, 108 bytes are allowed."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"hearth_{os.getuid()}", f"{name}_{rank}.sock")  # see private_folder


def listening(folder: Path, rank: int) -> dict[str, Any]:
    """Where process `rank` of the run in `folder` listens: its `socket`, which depends on its user and TMPDIR, its
    `host`, and the number of `processes`; empty where it does not. Raises UserError for another user's run."""
    try:
        return dict(json.loads((folder / FILES / f"{rank}.address").read_text(encoding="utf-8")))
    except PermissionError:
        raise UserError(f"{folder} is trained by another user, who alone can steer it") from None
    except (OSError, ValueError):
        return {}


class Request:
    """A command, {option: value}, that waits for its answer."""

    def __init__(self, command: dict[str, Any], reply: Callable[[str], object] = bool):
        self.command, self.reply = command, reply


class Listener:
    """Collects the commands for a run: `requests` holds those that have come and are not answered.

    Args:
        folder: the run's.
        status: what to answer, at once, to who asks for the status alone.
        rank: the number of this process; who wants its debugger asks it, all other commands go to the first.
        processes: how many there are.

    Attributes:
        caller: the terminal of who asked for the debugger last.
    """

    def __init__(self, folder: Path, status: Callable[[], str], rank: int = 0, processes: int = 1):
        self.folder, self.status, self.rank, self.processes = folder, status, rank, processes
        self.requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.looked = 0.0
        self.socket: socket.socket | None = None
        self.path, self.written = address(folder, rank), folder / FILES / f"{rank}.address"
        self.caller: Here = HERE
        self.entering = threading.Lock()

    def open(self) -> None:
        """Begin to listen, in a thread. Raises UserError or OSError where no socket can be made; commands still come as
        files then."""
        for left in private_folder().glob("*.sock"):  # by killed runs, which no longer listen
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as tried:
                if tried.connect_ex(str(left)):
                    left.unlink()
        self.socket = socket.socket(socket.AF_UNIX)
        new = self.path.with_suffix(".new")  # another process may remove a socket that does not listen yet
        new.unlink(missing_ok=True)
        self.socket.bind(str(new))
        self.socket.listen()
        new.replace(self.path)
        place = {"socket": str(self.path), "host": socket.gethostname(), "processes": self.processes}
        self.written.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self.written, lambda file: json.dump(place, file))
        threading.Thread(target=self._accept, args=(self.socket,), name="control", daemon=True).start()

    def close(self) -> None:
        """Stop; what still waits is told so."""
        if self.socket:
            self.path.unlink(missing_ok=True)
            self.written.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process, or an answer that is not read yet
                self.written.parent.rmdir()
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()
        if self.rank == 0:
            self.look_for_files(now=True)
        while not self.requests.empty():
            self.requests.get().reply(OVER)
        self.caller.end(OVER if self.caller.waiting else "the run has ended")

    def look_for_files(self, now: bool = False) -> None:
        """Take the commands that came as files: plain ones of the run's user, once a second."""
        if not now and time.monotonic() < self.looked + LOOK:
            return
        self.looked = time.monotonic()
        for path in sorted((self.folder / FILES).glob("*.json")):
            with contextlib.suppress(OSError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and found.st_size <= LONGEST:
                    text = path.read_bytes()
                    path.unlink()
                    self._take(text, FileReply(path))

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as file:
            if peer(connection) not in (os.getuid(), 0):
                return
            answered = threading.Event()

            def reply(text: str) -> None:
                with contextlib.suppress(OSError, ValueError):  # who asked is gone
                    file.write(json.dumps(text).encode() + b"\n")
                    file.flush()
                answered.set()

            text, terminals, *_ = socket.recv_fds(connection, LONGEST, 1)
            if not text.endswith(b"\n"):
                text += file.readline(LONGEST)
            for terminal in terminals:
                caller = Caller(terminal, text.decode("utf-8", "replace").strip(), reply)
                self._enter(caller)
                while file.readline(LONGEST):  # a line for each Ctrl-C
                    caller.interrupt()
                caller.interrupt()
                return
            self._take(text, reply)
            answered.wait()

    def _enter(self, caller: Caller) -> None:
        with self.entering:
            if free := self.caller.ended:
                self.caller = caller
        if not free:
            caller.end("refused: another `control --debug` is at the prompt: wait until it has ended")

    def _take(self, text: bytes, reply: Callable[[str], None]) -> None:
        try:
            command = json.loads(text)
        except ValueError:
            command = None
        if not isinstance(command, dict):
            reply("a command that is cut off: give it again")
        else:
            self.ask(command, reply)

    def ask(self, command: dict[str, Any], reply: Callable[[str], object]) -> None:
        """Take a command: who asks for the status alone is answered at once, all others after the step."""
        if [*command] == ["status"]:
            reply(self.status())
        else:
            self.requests.put(Request(command, reply))


class FileReply:
    """Answers a command that came as a file, by another one beside it."""

    def __init__(self, path: Path):
        self.path = path.with_suffix(".answer")

    def __call__(self, text: str) -> None:
        """Write it. A disk that is full loses the answer, not the command."""
        with contextlib.suppress(OSError):
            write_atomically(self.path, lambda file: file.write(text))


def peer(connection: socket.socket) -> int:
    """The user number of who is at the other end; where the system does not say (only Linux does), the folder's rights
    have to do: this user's."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    _, user, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return user


def connect(connection: socket.socket, folder: Path, rank: int = 0) -> None:
    """Connect to the process `rank` that trains the run in `folder`. Raises OSError where it cannot be reached from
    here, and UserError for another user's."""
    connection.connect(listening(folder, rank).get("socket", ""))
    if os.getuid() not in (peer(connection), 0):
        raise UserError(f"{folder}: another user's process listens there: nothing is sent to it")


def send(folder: Path, command: dict[str, Any]) -> str:
    """The answer of the process that trains the run in `folder`, when it has obeyed: after its step. Raises UserError
    where no process does, or when it ends without an answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connect(connection, folder)
            with connection.makefile("rwb") as file:
                file.write(json.dumps(command).encode() + b"\n")
                file.flush()
                answer = file.readline()
    except OSError:  # no such socket, or one that a killed run has left
        answer = b""
        if in_training(folder):
            return send_file(folder, command)
    if not answer:
        raise UserError(LOST.format(folder.name))
    return str(json.loads(answer))


def send_file(folder: Path, command: dict[str, Any]) -> str:
    """The same by way of a file."""
    path = folder / FILES / f"{time.time_ns()}_{uuid.uuid4().hex[:8]}.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(path, lambda file: json.dump(command, file))
    answer = path.with_suffix(".answer")
    while not answer.exists():
        if not in_training(folder):
            path.unlink(missing_ok=True)
            raise UserError(LOST.format(folder.name))
        time.sleep(0.1)
    text = answer.read_text(encoding="utf-8")
    answer.unlink()
    return text

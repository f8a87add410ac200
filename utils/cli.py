"""The border between the shell and Fire: the whole command line is read and checked before anything else happens.

Fire alone runs a command first and complains about its options afterwards, guesses types and rewrites names; so it gets
nothing but a known command whose options are checked already. (It stays because its users chose it.)
"""

import difflib
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

from . import UserError
from .notices import Output
from .options.hints import explained
from .options.manual import describe, explain
from .options.options import Options
from .run import signals
from .runs import command as looking
from .train.launch import several
from .train.schedule import Schedule, draw

# {command: the module with its function} of those that main.py does not have itself; the function, named like the
# command, gets main.py's module, whose functions make data and models, and the options.
ROOMS: dict[str, str] = {
    "doctor": "utils.doctor.command",
    "find-lr": "utils.search.find_lr",
    "predict": "utils.deploy.predict",
    "export": "utils.deploy.export",
    "prune": "utils.deploy.prune",
    "card": "utils.deploy.card",
    "sweep": "utils.search.command",
}
FOLDS = "utils.search.folds"  # the same for train, where it is asked for all folds
COMMANDS = ("train", "val", "test", "pack", *looking.COMMANDS, *ROOMS, "help")
# What other projects call a command.
SYNONYMS = {
    "fit": "train",
    "eval": "val",
    "evaluate": "val",
    "validate": "val",
    "infer": "predict",
    "inference": "predict",
    "lr-find": "find-lr",
}


def read(argv: Sequence[str], commands: Sequence[str] = COMMANDS) -> tuple[str, str, dict[str, Any]]:
    """The command line as (command, word, {option: text}), e.g. ("train", "", {"batch_size": "8"}).

    An option without a value (--resume) has the value True. -h or --help anywhere means the command help; only behind
    that may stand a word, the name of an option or a command. Raises UserError for anything but a command followed by
    --option=value.
    """
    words = [word for word in argv if not word.startswith("-")]
    if any(word in ("-h", "--help") for word in argv):
        return "help", next((word for word in words if word in commands and word != "help"), ""), {}
    options: dict[str, Any] = {}
    for word in (w for w in argv if w.startswith("-")):
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not name:
            raise UserError(f"{word!r} is not an option: options are written --name=value")
        if name in options:
            raise UserError(f"--{name.replace('_', '-')} is given twice")
        if equals and not value:
            raise UserError(f"{word} has no value: write it without spaces, --name=value")
        options[name] = value if equals else True
    if not words:
        raise UserError(f"which command? python main.py {'|'.join(commands)} [--option=value ...]")
    if words[0] not in commands:
        close = difflib.get_close_matches(SYNONYMS.get(words[0], words[0]), commands, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(commands)}"
        raise UserError(f"unknown command {words[0]!r}; {hint}")
    asked = words[1:] + [name for name, value in options.items() if value is True]
    if words[0] == "help" and len(asked) == 1:  # `help lr` or `help --lr`
        return "help", asked[0], {name: value for name, value in options.items() if value is not True}
    if words[1:]:
        raise UserError(
            f"what is {words[1]!r}? After the command come options only, written --name=value without spaces"
        )
    return words[0], "", options


def check(argv: Sequence[str], load: Callable[..., Options], doc: str) -> tuple[str, Any]:
    """The command and its options, checked; whatever is wrong ends the program with one line and exit code 2. `help`
    and what only looks at runs is answered here. Where several processes are asked for, only they come back from it.

    Args:
        load: makes Options of {option: text}.
        doc: usage and examples, which `help` prints first.
    """
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            setattr(sys, name, Output(stream))
    with one_line_errors():
        command, word, options = read(argv)
        if command == "sweep":  # where others have values it has ranges: it reads its words itself
            return command, importlib.import_module(ROOMS[command]).plan(options, load)
        opt = load(options, command="" if command == "help" else command)
        if command == "help":
            print(manual(opt, word, doc))
            sys.exit()
        if command in looking.COMMANDS:
            sys.exit(looking.COMMANDS[command](opt))
        if command not in ROOMS:
            several(opt)
        return command, opt


def manual(opt: Options, word: str, doc: str) -> str:
    """What `help` prints: the option `word`, the options of the command `word`, the schedule when an option of one is
    given, or everything."""
    if word and word not in COMMANDS:
        return explain(opt.root(), word)
    if word and word != "help":
        return describe(opt.root(), word)
    wanted = {**opt.kwargs_for(Schedule), **opt.kwargs_for(draw)}
    if wanted.keys() & opt.explicit:
        return draw(**wanted)
    return f"{doc}\n{describe(opt.root())}"


def run(program: ModuleType, command: str, opt: Any) -> None:
    """Let Fire call the function of the command, main.py's or that of ROOMS, with options that are checked already."""
    import fire

    signals.loaded()
    function = {"val": "evaluate"}.get(command, command.replace("-", "_"))  # val(model, loader) is the book's function
    failures: list[Exception] = []

    def call() -> None:
        try:
            all_folds = command == "train" and importlib.import_module(FOLDS).asked(opt)
            if room := FOLDS if all_folds else ROOMS.get(command):
                getattr(importlib.import_module(room), function)(program, opt)
            else:
                getattr(program, function)(opt)
        except Exception as failure:  # raised below: Fire's frames would bury those of the user's model
            failures.append(failure)

    with one_line_errors(program.processes.first_to_say):
        fire.Fire({command: call}, command=command)
        if failures:
            raise failures[0]


@contextmanager
def one_line_errors(says: Callable[[str], bool] = bool) -> Iterator[None]:
    """Turn a UserError, and what hints.py can explain, into one line on stderr, if `says` agrees to it, and exit code
    2."""
    try:
        yield
    except UserError as error:
        fail(error, says)
    except Exception as error:
        if not (line := explained(error)):
            raise
        fail(line, says)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: object, says: Callable[[str], bool]) -> NoReturn:
    """End the program: one line on stderr, exit code 2."""
    line = f"main.py: {' '.join(str(message).split())}"
    if says(line):
        print(line, file=sys.stderr)
    sys.exit(2)

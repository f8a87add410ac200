"""The border between the shell and Fire: the whole command line is read and checked before anything else happens.

Fire alone runs a command first and complains about its options afterwards, guesses types and rewrites names; so it is
handed nothing but a known command and options that are already right.
"""

import difflib
import os
import sys
from contextlib import contextmanager

from . import UserError


def read(argv, commands):
    """The command line as (command, {option: text}), e.g. ("train", {"batch_size": "8"}).

    An option without a value (--resume) has the value True. -h or --help anywhere means the command help.
    Raises UserError for anything that is not a command of `commands` followed by --option=value.
    """
    if any(word in ("-h", "--help") for word in argv):
        return "help", {}
    words = [word for word in argv if not word.startswith("-")]
    options = {}
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
        close = difflib.get_close_matches(words[0], commands, n=1)
        raise UserError(
            f"unknown command {words[0]!r}; "
            + (f"did you mean {close[0]}?" if close else f"there are {', '.join(commands)}")
        )
    if words[1:]:
        raise UserError(
            f"what is {words[1]!r}? After the command come options only, written --name=value without spaces"
        )
    return words[0], options


def check(argv, commands, load):
    """read(), with the options tried on `load`; whatever is wrong ends the program with one line."""
    with one_line_errors(UserError, ValueError):
        command, options = read(argv, commands)
        load(options)
        return command, options


def for_fire(command, options):
    """The arguments that make Fire call `command` with exactly these options: repr keeps it from guessing types."""
    return [command, *(f"--{name}={value!r}" for name, value in options.items())]


# What PyTorch says of batches and pictures that are too small, and what to do.
# What torch's allocators, and the libraries that have their own, say where memory runs out. The last is oneDNN's, which
# says it of other failures, too: whoever ends a program for it repeats it.
NO_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "could not create a primitive")
HINTS = {
    **dict.fromkeys(NO_MEMORY, "out of memory: take a smaller --batch-size or --image-size, or another --model"),
    "Expected more than 1 value per channel": "BatchNorm cannot learn from one value: "
    "a larger --batch-size or --image-size",
    "Output size is too small": "the model needs larger pictures: a larger --image-size",
    "Kernel size can't be greater than actual input size": "the model needs larger pictures: a larger --image-size",
}


@contextmanager
def one_line_errors(*kinds):
    """Turn errors of these kinds, and files that cannot be read or written, into one line on stderr and exit code 2."""
    try:
        yield
    except kinds as error:
        fail(error)
    except BrokenPipeError:  # whoever read the output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except (RuntimeError, ValueError) as error:
        hints = [hint for text, hint in HINTS.items() if text in str(error)]
        if not hints:
            raise
        fail(f"{hints[0]} ({error})")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message):
    """End the program: one line on stderr, exit code 2."""
    print(f"main.py: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)

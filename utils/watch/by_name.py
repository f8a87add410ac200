"""Callbacks are picked by name, like models and data sets, and get what their constructor names."""

import importlib.util
import inspect
from typing import Any

from utils import UserError
from utils.events import EVENTS
from utils.options import own
from utils.options.kinds import nearest
from utils.options.options import Options

PARTS = "run model optimizer schedule step meters guard sampler train_loader val_loader vis show".split()


def pick(name: str, options: Options) -> tuple[Any, list[str]]:
    """The class with this name, and the arguments of its constructor that are options of config.py or PARTS.

    The class is one of utils/watch/, or for my_file.MyCallback of a file of the user's, in the current folder or beside
    main.py. Raises UserError when there is none, when the file cannot be imported or a package is missing, and for an
    argument without a default that is neither an option nor a part.
    """
    made = own.find("callbacks", name, "utils.watch")
    needs = getattr(made, "needs", "")
    if needs and not importlib.util.find_spec(needs):
        raise UserError(f"{name} needs a package that is not installed: pip install {needs}")
    arguments = inspect.signature(made).parameters.values()
    unknown = [method for method in dir(made) if method.startswith("on_") and method not in EVENTS]
    if unknown:
        raise UserError(f"--callbacks={name}: {unknown[0]} is no event{nearest(unknown[0], EVENTS)}")
    lacking = [event for event in EVENTS if isinstance(made, type) and not hasattr(made, event)]
    if lacking:
        raise UserError(f"--callbacks={name} has no {lacking[0]}: it has to be a Callback of utils/events.py")
    known = {*options.options(), *PARTS}
    named = [one for one in arguments if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    missing = [one.name for one in named if one.name not in known and one.default is one.empty]
    if missing:
        raise UserError(
            f"--callbacks={name}: nothing is called {missing[0]}; a callback's constructor may name options of "
            f"config.py and {', '.join(PARTS)}"
        )
    return made, [one.name for one in named if one.name in known]


def build(name: str, options: Options, **parts: Any) -> Any:
    """An object of the class `name`; its constructor gets the options and parts that it names."""
    made, named = pick(name, options)
    known = {**options.values(), **parts}
    try:
        return made(**{one: known[one] for one in named})
    except Exception as error:
        if "." in name:  # a user's class
            raise UserError(f"--callbacks={name} cannot be made: {type(error).__name__}: {error}") from None
        raise

"""A user's own classes and functions, named my_file.MyClass: no file of hearth has to be changed for them."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from .. import UserError

OWN = re.compile(r"[A-Za-z_][\w.]*\.[A-Za-z_]\w*")  # how they are named


files: dict[str, Path] = {}  # {module: its file} of what was found so: a run keeps copies of them


def find(option: str, name: str, package: str) -> Any:
    """What `name` means: for my_file.MyClass what is in that file, in the current folder or beside main.py; else what
    the package has. Raises UserError, which names the option, when it cannot be imported."""
    module, _, attribute = name.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module or package)
        if module and found.__file__:
            files[module] = Path(found.__file__)
        return getattr(found, attribute)
    except Exception as error:  # a user's file raises anything
        where = f"; files are looked for in {here} and beside main.py" * isinstance(error, ModuleNotFoundError)
        raise UserError(f"--{option}={name} cannot be loaded: {type(error).__name__}: {error}{where}") from None

"""A pickle's weights without its code: torch.load(file, pickle_module=inert, weights_only=False) runs nothing of it.

Every class and function that the file names becomes a stand-in, which is never imported and never called: it keeps what
it is given. Tensors alone are built, by torch. torch.load takes this module where it usually takes Python's pickle.
"""

import builtins
import contextlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import torch

# Modules of Python's own whose classes hold data. What else a file asks Python for is code that it wants to run.
DATA = {"argparse", "array", "collections", "copyreg", "copy_reg", "datetime", "decimal", "enum", "fractions"}
DATA |= {"functools", "ipaddress", "numbers", "pathlib", "re", "types", "typing", "uuid", "zoneinfo", "_codecs"}
STANDARD = sys.stdlib_module_names | {"__builtin__", "commands"}  # and Python 2's


class CodeRefused(pickle.UnpicklingError):
    """The file would run a function of Python's; the message is its name."""


class Inert(dict):
    """What a pickle makes of a class or a function: `made_by` is that one's name, `state` are the object's attributes,
    the items are those of a dict. Classes are derived from it, one per name."""

    made_by = ""
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **_: Any):
        super().__init__()
        self.state: dict[Any, Any] = {}
        if arguments and isinstance(arguments[0], (dict, list)):
            with contextlib.suppress(TypeError, ValueError):  # the items of an OrderedDict, as Python 2 wrote it
                self.update(arguments[0])

    def __setstate__(self, state: Any) -> None:
        state = state[0] if isinstance(state, tuple) and state else state  # (attributes, those of __slots__)
        self.state = dict(state) if isinstance(state, dict) else {}

    def append(self, *_: Any) -> None:
        """Pickle fills lists and sets this way; their items are not needed."""

    extend = add = append


class _Tensor(Inert):
    def __new__(cls, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
        return torch.empty(0, dtype=storage.dtype).set_(storage.untyped(), offset, size, stride)


class _Parameter(Inert):
    def __new__(cls, data: Any, *_: Any) -> Any:
        return data


class _Set(Inert):
    def __new__(cls, items: Any = (), *_: Any) -> Any:
        return set(items)


class _Typed(Inert):
    def __new__(cls, build: Any, kind: Any, arguments: Any, state: Any) -> Any:
        return build(*arguments) if isinstance(build, type) and issubclass(build, Inert) else None


BUILT = {
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _Parameter,
    "torch._utils._rebuild_parameter_with_state": _Parameter,
    "torch._tensor._rebuild_from_type_v2": _Typed,
    "builtins.set": _Set,
    "__builtin__.set": _Set,
}


class Unpickler(pickle.Unpickler):
    """Makes stand-ins where pickle would import. Raises CodeRefused for what is no data."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of its own, derived from Inert: nothing that the file does to it reaches another load."""
        path, root = f"{module}.{name}", module.partition(".")[0]
        if root in ("builtins", "__builtin__"):
            harmless = isinstance(getattr(builtins, name, None), type)
        else:
            harmless = root in DATA or root not in STANDARD
        if not harmless:
            raise CodeRefused(path)
        # Without a module, so that torch finds no source file to compare with that in the checkpoint.
        return type(name, (BUILT.get(path, Inert),), {"made_by": path, "__module__": ""})


def load(file: Any, **options: Any) -> Any:
    """The next pickle of an open file, see Unpickler."""
    return Unpickler(file, **options).load()


def tensors(value: Any, name: str = "", outer: tuple[int, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) of all that stand below a dict or stand-in, names joined with dots; of a pickled module its
    state dict. What belongs to an optimizer is left out."""
    for key, part in _children(value).items():
        if isinstance(key, str) and "optim" not in key.lower() and id(part) not in outer:
            if isinstance(part, torch.Tensor):
                yield f"{name}{key}", part.detach()
            elif isinstance(part, dict):
                yield from tensors(part, f"{name}{key}.", (*outer, id(part)))


def _children(value: dict[Any, Any]) -> dict[Any, Any]:
    state = getattr(value, "state", {})
    if "_modules" not in state:
        return {**value, **state}
    unsaved = state.get("_non_persistent_buffers_set") or ()
    own = {key: part for kind in ("_parameters", "_buffers") for key, part in state.get(kind, {}).items()}
    return {**{key: part for key, part in own.items() if key not in unsaved}, **state["_modules"]}


def stand_ins(value: Any, outer: tuple[int, ...] = ()) -> list[str]:
    """Names of the classes and functions that stand-ins below this value replace, without plain collections'."""
    found = []
    if isinstance(value, Inert) and not value.made_by.startswith("collections."):
        found = [value.made_by]
    parts = _children(value).values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts:
        if id(part) not in outer:
            found += stand_ins(part, (*outer, id(part)))
    return list(dict.fromkeys(found))

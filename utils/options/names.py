"""Kinds of options that know the house: names of classes, optimizers, losses and runs. All is read as text, because to
import it takes seconds."""

import ast
import importlib.machinery
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from .kinds import Kind, choice, expanded, nearest, number, read_text
from .own import OWN

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = {"models": "torchvision or timm"}
# The base class, those that call the loss again, want sparse gradients, or whole data sets at a time.
UNUSABLE = "Optimizer", "LBFGS", "SparseAdam", "Rprop"


def name_in(package: str, own: bool = False) -> Kind:
    """The name of a class that package/__init__.py imports, or of what its library offers (see library_names; timm's
    names may have a tag, resnet50.a1_in1k). With `own` also a class in a file of the user's, my_file.MyClass."""
    place = package.replace(".", "/")

    def check(value: Any) -> str:
        names, more = imported_names(package), library_names(package)
        added_at_run_time = isinstance(getattr(sys.modules.get(package), str(value), None), type)  # from a notebook
        if own and OWN.fullmatch(str(value)):
            return str(value)
        if value not in names and str(value).partition(".")[0] not in more and not added_at_run_time:
            others = f", or a classifier of {LIBRARIES[package]}" if more else ""
            missing = " (not installed: `make pretrained` for --config=Finetune, or pip install timm)"
            others += missing if more and not importlib.util.find_spec("timm") else ""
            others += ", or a class in a file of yours, my_file.MyClass" if own else ""
            hint = nearest(value, [*names, *more])
            raise ValueError(f"a class that {place}/__init__.py imports: {', '.join(names)}{others}{hint}")
        return value

    return Kind(check, f"a class that {place}/__init__.py imports")


def imported_names(package: str) -> list[str]:
    """What package/__init__.py imports, read as text: a misspelled name is answered without waiting for torch."""
    tree = ast.parse(ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if node.level or str(node.module).split(".")[0] not in sys.stdlib_module_names]
    return [alias.asname or alias.name for node in own for alias in node.names]


def library_names(package: str) -> list[str]:
    """Classifiers that torchvision, and timm where it is installed, register by name. Their files are read as text:
    to import them takes seconds."""
    names: list[str] = []
    for library in LIBRARIES.get(package, "").split(" or "):
        found = importlib.util.find_spec(library) if library else None
        for file in sorted(Path(str(found.origin)).parent.glob("models/*.py")) if found else ():
            names += re.findall(
                r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", file.read_text("utf-8"), re.MULTILINE
            )
    return sorted(set(names))


def optimizers() -> list[str]:
    """The optimizers of torch.optim that a training can use; where its file is not found, the usual ones."""
    torch = importlib.machinery.PathFinder.find_spec("torch")
    try:
        text = Path(str(torch and torch.origin)).with_name("optim").joinpath("__init__.py").read_text("utf-8")
    except OSError:
        return ["Adam", "AdamW", "SGD"]
    return [name for name in re.findall(r"import (\w+) as \1$", text, re.MULTILINE) if name not in UNUSABLE]


optimizer_name = choice(*optimizers(), own=True)


def weighted_sum(*names: str) -> Kind:
    """One of these names, or a sum of them with weights, written like 0.7*first+0.3*second."""

    def check(value: Any) -> str:
        for term in str(value).split("+"):
            factor, _, name = term.rpartition("*")
            choice(*names, own=True).check(name.strip())
            number(0, above=True).check(factor or 1)
        return str(value)

    return Kind(check, f"one of {', '.join(names)}, or a weighted sum like 0.7*{names[0]}+0.3*{names[-1]}")


def _run_name(value: Any) -> str | None:
    if str(value) in ("None", "False"):
        return None
    return "newest" if str(value) == "True" else read_text(value)


run_name = Kind(_run_name, "the folder or name of a run; bare, the newest unfinished one; auto: that one, or a new run")


def _weights_name(value: Any) -> str | None:
    if str(value) in ("None", "False"):
        return None
    text = "auto" if str(value) == "True" else read_text(value)
    file, mark, origin = text.partition("  # ")  # in a run's config.yaml, see resume.resolve
    return expanded(file) + mark + origin


weights_name = Kind(_weights_name, "a folder, a file or an address; bare, it looks for published weights by itself")

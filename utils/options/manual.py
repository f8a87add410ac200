"""What `help` prints of the options: the comments of config.py are the manual."""

import ast
import inspect
import itertools
import operator
import re
import textwrap
from typing import Any

from .. import UserError
from .kinds import dashed
from .names import imported_names
from .options import Options
from .synonyms import meant


def documented(cls: type[Options]) -> list[tuple[str, str, str, str]]:
    """(heading, name, default, comment) of every option, read from the source of the class that defines them: its
    comments are the documentation. A line `# --- data` begins a heading."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines, found = [line.strip() for line in source.splitlines()], []
    tree: Any = ast.parse(source).body[0]
    nodes: list[Any] = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    for node in nodes:
        headings = [line.removeprefix("# --- ") for line in lines[: node.lineno] if line.startswith("# --- ")]
        below = itertools.takewhile(re.compile("# (?!---)").match, lines[node.end_lineno :])
        comments = [lines[node.end_lineno - 1].partition("  # ")[2], *(line.removeprefix("# ") for line in below)]
        found.append((["", *headings][-1], node.target.id, ast.unparse(node.value), " ".join(comments)))
    return found


def describe(cls: type[Options], command: str = "") -> str:
    """What `help` prints of the options: all of them, or those that a command reads, under their headings, then the
    names that can be chosen."""
    of, indent = f" of {command}" if command else "", " " * 30
    lines = [f"options{of} (--batch-size=8 and --batch_size=8 are the same; `help lr` explains one):"]
    shown = [one for one in documented(cls) if not command or command in cls.options()[one[1]].commands]
    for heading, group in itertools.groupby(shown, key=operator.itemgetter(0)):
        lines += ["", heading]
        for _, name, default, comment in group:
            begin, text = f"  {dashed(name)}={default}", textwrap.wrap(comment, 110 - len(indent))
            lines += [f"{begin:<29} {text.pop(0)}"] if len(begin) < 30 else [begin]
            lines += [indent + line for line in text]
    lists = {"--config": [*cls.presets()], "--model": imported_names("models"), "--dataset": imported_names("data")}
    return "\n".join([*lines, "", *(f"{option}: {', '.join(known)}" for option, known in lists.items())])


def explain(cls: type[Options], asked: str) -> str:
    """What `help lr` prints: one option with its range, default, presets that change it, and what it goes with. Raises
    UserError for a name that is no option."""
    options, presets = cls.options(), cls.presets()
    (name,) = cls.translated({asked.removeprefix("--").replace("-", "_"): None})  # a former name is understood, too
    if asked in presets:
        changes = (f"  {dashed(option)}={value}" for option, value in presets[asked].preset_values().items())
        return "\n".join([inspect.cleandoc(presets[asked].__doc__ or asked), "", "changes:", *changes])
    if name not in options:
        raise UserError(f"help {asked}: no such option{meant(name, options)}")
    kind, (heading, _, default, comment) = options[name], next(one for one in documented(cls) if one[1] == name)
    changed = [f"{preset} {vars(one)[name]}" for preset, one in presets.items() if name in vars(one)]
    dependent = [dashed(one) for one, other in options.items() if name in other.only]
    facts = [
        f"presets: {', '.join(changed)}" if changed else "",
        *(f"goes with: {dashed(other)}={' or '.join(values)}" for other, values in kind.only.items()),
        f"decides about: {', '.join(dependent)}" if dependent else "",
        f"read by: {', '.join(kind.commands)}" + (f", with each --{kind.part} that has it" if kind.part else ""),
        f"on --resume: {'may change' if kind.free else 'is fixed'}",
        *(f"formerly: {dashed(old)}" for old in kind.old),
        f"in runs that do not name it: {kind.before}" if kind.before is not None else "",
    ]
    return "\n".join([f"{dashed(name)}={default}  ({heading})", comment, f"takes: {kind.takes}", *filter(None, facts)])

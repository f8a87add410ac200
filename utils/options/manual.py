"""What `help` prints of the options: the comments of config.py are the manual."""

import ast
import inspect
import textwrap
from typing import Any

from .. import UserError
from .kinds import dashed, imported_names, nearest
from .options import Options


def documented(cls: type[Options]) -> list[tuple[str, str, str, str]]:
    """(heading, name, default, comment) of every option, read from the source of the class that defines them: its
    comments are the documentation. A line `# --- data` begins a heading."""
    lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    found, heading, seen = [], "", 0
    nodes: list[Any] = [node for node in getattr(tree, "body") if isinstance(node, ast.AnnAssign)]  # noqa: B009
    for node in nodes:
        for line in lines[seen : node.lineno]:
            heading = line.strip().removeprefix("# --- ") if line.strip().startswith("# --- ") else heading
        seen = node.end_lineno
        comments = [lines[seen - 1].partition("  # ")[2]]
        while lines[seen].strip().startswith("# ") and not lines[seen].strip().startswith("# ---"):
            comments.append(lines[seen].strip().removeprefix("# "))
            seen += 1
        found.append((heading, node.target.id, ast.unparse(node.value), " ".join(comments)))
    return found


def describe(cls: type[Options]) -> str:
    """What `help` prints of the options: all of them under their headings, then the names that can be chosen."""
    lines, shown = ["options (--batch-size=8 and --batch_size=8 are the same; `help lr` explains one):"], ""
    for heading, name, default, comment in documented(cls):
        if heading != shown:
            lines += ["", heading]
            shown = heading
        indent = " " * 30
        begin, text = f"  {dashed(name)}={default}", textwrap.wrap(comment, 110 - len(indent))
        lines += [f"{begin:<29} {text.pop(0)}"] if len(begin) < 30 else [begin]
        lines += [indent + line for line in text]
    lists = {"--config": [*cls.presets()], "--model": imported_names("models"), "--dataset": imported_names("data")}
    return "\n".join([*lines, "", *(f"{option}: {', '.join(known)}" for option, known in lists.items())])


def explain(cls: type[Options], asked: str) -> str:
    """What `help lr` prints: one option with its range, default, presets that change it, and what it goes with. Raises
    UserError for a name that is no option."""
    name = asked.removeprefix("--").replace("-", "_")
    name = next(iter(cls.translated({name: None})))  # a former name is understood, too
    for heading, known, default, comment in documented(cls):
        if known == name:
            kind = cls.options()[name]
            lines = [f"{dashed(name)}={default}  ({heading})", comment, f"takes: {kind.takes}"]
            changed = {preset: vars(one)[name] for preset, one in cls.presets().items() if name in vars(one)}
            if changed:
                lines.append("presets: " + ", ".join(f"{preset} {value}" for preset, value in changed.items()))
            for other, values in kind.only.items():
                lines.append(f"goes with: {dashed(other)}={' or '.join(values)}")
            mine = [one for one, other in cls.options().items() if name in other.only]
            if mine:
                lines.append("decides about: " + ", ".join(dashed(one) for one in mine))
            if kind.part:
                lines.append(f"read by: each --{kind.part} that has it; refused for any other")
            lines.append(f"on --resume: {'may change' if kind.free else 'is fixed'}")
            lines += [f"formerly: {dashed(old)}" for old in kind.old]
            return "\n".join(lines)
    if asked in cls.presets():
        preset = cls.presets()[asked]
        changes = (f"  {dashed(option)}={value}" for option, value in preset.preset_values().items())
        return "\n".join([inspect.cleandoc(preset.__doc__ or asked), "", "changes:", *changes])
    raise UserError(f"help {asked}: no such option{nearest(name, cls.options()).replace('_', '-')}")

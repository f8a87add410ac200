"""Runs beside each other: their curves in one picture, the options and the code in which they differ."""

import difflib
import statistics
import subprocess
from pathlib import Path
from typing import Any

from utils import UserError
from utils.options.kinds import dashed

from .table import Found, number, shown

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = 60  # of a difference in code that are printed


def show(runs: list[Found], opt: Any) -> None:
    """Print in which options and code the runs differ, and draw their curves into compare.png of work_dir. Raises
    UserError for a single run, and where none has finished an epoch."""
    if len(runs) < 2:
        raise UserError("--compare takes two runs or more, with commas between them")
    names = [name for name in opt.options() if name not in ("config", "resume")]
    names += [name for run in runs for name in run.options if name not in names and name not in ("config", "resume")]
    rows = [[name, *(shown(run.options.get(name, "")) for run in runs)] for name in dict.fromkeys(names)]
    rows = [row for row in rows if len({*row[1:]}) > 1]
    rows = [["", *(run.folder.name for run in runs)], *([dashed(row[0]), *row[1:]] for row in rows)]
    rows.append(["best", *("" if run.best is None else f"{run.measure} {run.best[1]:.4g}" for run in runs)])
    rows.append(["code", *(run.code() for run in runs)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(*over_seeds(runs, opt), sep="", end="")
    for one in runs[1:]:
        lines = code_difference(runs[0], one)
        print(f"\ncode of {runs[0].folder.name} and {one.folder.name}: {'the same' if not lines else ''}".rstrip(" "))
        for line in lines[:LINES]:
            print(line)
        if len(lines) > LINES:
            print(f"... and {len(lines) - LINES} more lines")
    if any(run.rows for run in runs):
        path = Path(opt.work_dir, "compare.png")
        draw(runs, path)
        print(f"curves: {path}")


def over_seeds(runs: list[Found], opt: Any) -> list[str]:
    """A line for each group of finished runs that differ in the seed alone: mean and standard deviation of their best
    values. Their code is the same, and so are all options that decide about the numbers."""
    decide = {"max_epoch", "train_data_root", "val_data_root", "callbacks", "stop_patience", "min_delta"}
    names = [name for name, kind in opt.options().items() if (not kind.free or name in decide) and name != "seed"]
    groups: dict[str, dict[Any, Found]] = {}
    for run in runs:
        code = [run.starts[-1].get("git_commit") if run.starts else None, changes(run)]
        if run.best and run.state == "finished":
            same = repr([run.measure, code, *(run.options.get(name) for name in names)])
            groups.setdefault(same, {})[run.options.get("seed")] = run
    lines = []
    for group in groups.values():
        values = [run.best[1] for run in group.values() if run.best]
        if len(values) > 1:
            spread = f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}"
            measure, seeds = next(iter(group.values())).measure, ", ".join(map(str, group))
            lines.append(
                f"best {measure} over the seeds {seeds}: {spread} (mean ± standard deviation, n = {len(values)})\n"
            )
    return lines


def code_difference(one: Found, other: Found) -> list[str]:
    """The lines of a diff from the code of one run's last start to another's: of their commits by git, where both are
    known here, and of what each had changed since (source_N.diff)."""
    commits = [str(run.starts[-1].get("git_commit") or "") if run.starts else "" for run in (one, other)]
    lines: list[str] = []
    if not all(commits):
        lines.append("a commit is not on record: the project was no git checkout, or config.yaml is lost")
    elif commits[0] != commits[1]:
        command = ["git", "-C", str(ROOT), "diff", *commits]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        lines += done.stdout.splitlines() if not done.returncode else [f"{' '.join(command)}: {done.stderr.strip()}"]
    titles = [f"{run.folder.name}, not committed" for run in (one, other)]
    return lines + [*difflib.unified_diff(changes(one), changes(other), titles[0], titles[1], lineterm="")]


def changes(run: Found) -> list[str]:
    """What the code of a run's last start differed in from its commit, as lines of a diff."""
    path = run.folder / f"source_{len(run.starts)}.diff"
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []


def draw(runs: list[Found], path: Path) -> None:
    """Write one picture of the runs' curves: a panel per measure, a colour per run, training dashed."""
    from utils.metrics import plots

    names = dict.fromkeys(name for run in runs for row in run.rows for name in row if number(row[name]) is not None)
    shown = plots.panels(name for name in names if name not in ("epoch", "step") and "seconds" not in name)
    figure, places = plots.figure_of(len(shown), width=4, height=3.3)
    for axes, (heading, lines) in zip(places, shown.items(), strict=True):
        for label, name in lines.items():
            for index, run in enumerate(runs):
                points = [
                    (int(row["epoch"]), value) for row in run.rows if (value := number(row.get(name))) is not None
                ]
                style = "--" if "training" in label and len(lines) > 1 else "-"
                color = plots.COLORS[index % len(plots.COLORS)]
                known = run.folder.name if name == [*lines.values()][-1] else None
                marker = "." if len(points) <= 40 else ""
                axes.plot(
                    *zip(*points, strict=True) if points else ((), ()), style, color=color, label=known, marker=marker
                )
        axes.set(xlabel="epoch", title=heading)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if max(len(run.rows) for run in runs) == 1:
            axes.set_xlim(0, 2)
        axes.grid()
    both = any(len(lines) > 1 for lines in shown.values())
    title = "solid: validation, dashed: training" if both else None
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, title=title)
    plots.save(figure, path)

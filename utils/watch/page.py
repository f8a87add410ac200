"""index.html: all that a run's or a report's folder shows, on one page that needs no server and no internet."""

import contextlib
import csv
import shlex
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from utils import UserError
from utils.files import write_atomically
from utils.metrics import plots
from utils.notices import warn
from utils.options.options import read_yaml
from utils.run.run import monitored

MARK = '<meta name="generator" content="hearth">'  # of pages that may be replaced
NEWEST, ROWS = 60, 200  # pictures of predictions, and rows of a table, that are shown at most
PASSING = "lock", "last.pth", "previous.pth"  # files that a run uses itself
STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --faint: #656d76; --line: #d0d7de; --ground: #fff; --panel: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --faint: #9198a1; --line: #3d444d; --ground: #0d1117; --panel: #151b23 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); margin: 0 auto;
  max-width: 80rem; padding: 1rem clamp(1rem, 4vw, 3rem) 3rem }
h1 { font-size: 1.6rem; margin: 1rem 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1rem 0 } a { color: #0072b2 }
@media (prefers-color-scheme: dark) { a { color: #56b4e9 } }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 1rem 0 }
dt, figcaption, .faint { color: var(--faint) } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 0 0 1.2rem } figcaption { font-size: .85rem; margin-top: .3rem; max-width: 50rem }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 6px;
  box-sizing: border-box }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
.full { grid-column: 1 / -1 }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; max-height: 40rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; width: 100% }
th { position: sticky; top: 0; background: var(--panel); font-weight: 600 }
td, th { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
td:first-child, th:first-child { text-align: left } tr:last-child td { border: 0 }
pre { background: var(--panel); border-radius: 6px; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; margin: .4rem 0 } summary { cursor: pointer; margin: .4rem 0 }
"""
# What is known to be in a folder, in the order in which it is shown, and what it is.
PICTURES = {
    "curves": "Losses, measures and learning rate of every epoch; the dotted line is the best epoch, whose weights are "
    "best.pth.",
    "callbacks": "Curves that callbacks plot, above what they give as x.",
    "confusion": "Confusion matrix: a row per true class, with counts and their share of the row.",
    "roc": "ROC curves: the share of a class that is found, against the share of all others that is taken for it.",
    "pr": "Precision and recall for every threshold on the probability.",
    "threshold": "Accuracy of the answer “this class or not”, for every threshold on its probability.",
    "mistakes": "Mistakes of the highest probability, with the photographs.",
    "truth": "All points with their true labels.",
    "labels": "The validation’s points with their predicted labels.",
}
BATCH = "Of the last training batch, as the model saw it, augmented; drawn after the first step and with each report."
NAMES = "val_0010_0_003 is picture 0 of the validation’s batch 10, drawn for the third time; the newest come first."
TABLES = {
    "results": "Every epoch",
    "measures": "Measures",
    "report": "Every class",
    "iou": "Intersection over union of every class, in %",
    "coco": "COCO's numbers, in %",
    "confusion": "Confusion matrix",
    "mistakes": "Mistakes",
}
CURVES = "curves", "callbacks"
CLOSED, FULL = ("confusion", "mistakes"), ("mistakes",)  # tables closed at first, as pictures show them; wide pictures


def write_page(folder: Path) -> None:
    """Write index.html in `folder`, of what is in it now, and again the page of the run that the folder is in, which
    links to it. A page that cannot be written is a warning; one of that name that is not hearth's stays."""
    path = folder / "index.html"
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise UserError("another page has that name")
        text = page(folder)
        write_atomically(path, lambda file: file.write(text))
    except Exception as error:
        warn(f"{path} is not written: {error}")
    above = folder.absolute().parent
    if (above / "index.html").exists() and (above / "results.csv").exists():
        write_page(above)


def page(folder: Path) -> str:
    """The page as HTML."""
    drawn = {path.stem: path for path in sorted(folder.glob("*.png"))}
    known = {name: drawn[name] for name in PICTURES if name in drawn}
    maps, predictions, batch = (
        [path for stem, path in drawn.items() if stem.startswith(kind)] for kind in ("cam_", "val_", "train_batch_")
    )
    others = {*drawn.values()} - {*known.values(), *maps, *predictions, *batch}
    saved = sorted(folder.glob("images/*.png"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    report = [path for name, path in known.items() if name not in CURVES]
    sections = {
        "Curves": "".join(figure(folder, known[name]) for name in CURVES if name in known),
        "Validation": grid(folder, [*report, *sorted(others)]),
        "Numbers": "".join(table(folder / f"{name}.csv", title) for name, title in TABLES.items()),
        "Training batch": grid(folder, batch, BATCH),
        "Predictions": grid(folder, [*predictions, *saved[:NEWEST]], NAMES),
        "Where the model looks": grid(folder, maps),
        "Options": options(folder),
        "Files": files(folder),
    }
    sections = {title: text for title, text in sections.items() if text}
    links = " ".join(f'<a href="#{quote(title)}">{title}</a>' for title in sections)
    body = "".join(f'<section id="{title}"><h2>{title}</h2>{text}</section>\n' for title, text in sections.items())
    name = escape(folder.absolute().name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{name}</h1>{summary(folder)}<nav>{links}</nav>\n{body}</body></html>\n"
    )


def summary(folder: Path) -> str:
    """What was trained, or what the report is about, as a list."""
    facts, config = content(folder / "about.yaml"), content(folder / "config.yaml")
    if config:
        rows, starts = rows_of(folder / "results.csv"), config.get("run") or [{}]
        commit = starts[-1].get("git_commit")
        facts = {
            "model": f"{config.get('model')}, pictures of {config.get('image_size')} pixels",
            "data": f"{config.get('dataset')} of {', '.join(map(str, config.get('train_data_root') or ()))}",
            "epochs": f"{len(rows)} of {config.get('max_epoch')}",
            "best": best_row(rows, config.get("monitor")),
            "started": ", ".join(str(start.get("started")) for start in starts),
            "code": f"commit {commit}{' with changes' if starts[-1].get('git_dirty') else ''}" if commit else "",
        }
    items = "".join(f"<dt>{escape(str(name))}<dd>{escape(str(fact))}" for name, fact in facts.items() if fact)
    return f"<dl>{items}</dl>"


def best_row(rows: list[dict[str, str]], monitor: str | None) -> str:
    """The best epoch of results.csv in words, by the option --monitor."""
    name = monitored(rows[-1] if rows else (), monitor)
    best = plots.best_of(np.array([float(row.get(name) or "nan") for row in rows]), name)
    return "" if best is None else f"epoch {rows[best]['epoch']}, {name} {rounded(rows[best][name])}"


def content(path: Path) -> dict[str, Any]:
    """What a YAML file holds; nothing where there is none, or a damaged one."""
    with contextlib.suppress(UserError):
        return dict(read_yaml(path, ()))
    return {}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return list(csv.DictReader(file))


def grid(folder: Path, paths: list[Path], about: str = "") -> str:
    """Pictures side by side, as many as there is room for, below a line `about` them."""
    pictures = "".join(figure(folder, path) for path in paths)
    return f'<p class="faint">{about}</p><div class="grid">{pictures}</div>' if paths else ""


def figure(folder: Path, path: Path) -> str:
    """A picture with its caption, linked to its file. The number behind its address, its time, keeps a browser from
    showing an earlier one."""
    link, caption = quote(path.relative_to(folder).as_posix()), escape(PICTURES.get(path.stem, path.stem))
    image = f'<img loading="lazy" src="{link}?{path.stat().st_mtime_ns}" alt="{escape(path.stem)}">'
    wide = ' class="full"' if path.stem in FULL else ""
    return f'<figure{wide}><a href="{link}">{image}</a><figcaption>{caption}</figcaption></figure>'


def table(path: Path, title: str) -> str:
    """A CSV file as a table, numbers with four digits."""
    rows = rows_of(path)
    if not rows:
        return ""
    title += f": the last {ROWS} of {len(rows):,} rows, all are in {path.name}" if len(rows) > ROWS else ""
    lines = ["".join(f"<th>{escape(name.replace('_', ' '))}" for name in rows[0])]
    lines += ["".join(f"<td>{escape(rounded(str(cell)))}" for cell in row.values()) for row in rows[-ROWS:]]
    cells = "".join(f"<tr>{line}" for line in lines)
    shown = "" if path.stem in CLOSED else " open"
    return f"<details{shown}><summary>{title}</summary><div class=wide><table>{cells}</table></div></details>"


def rounded(cell: str) -> str:
    """ "0.123456789" -> "0.1235"; whole numbers and text stay."""
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell


def options(folder: Path) -> str:
    """The commands of the run, and all of its options."""
    config = content(folder / "config.yaml")
    commands = [shlex.join(map(str, start.get("command") or ())) for start in config.pop("run", None) or ()]
    text = "".join(f"<pre>python {escape(command)}</pre>" for command in commands)
    lines = "".join(f"<dt>{escape(str(name))}<dd>{escape(str(value))}" for name, value in config.items())
    return text + (f"<details><summary>all options</summary><dl>{lines}</dl></details>" if config else "")


def files(folder: Path) -> str:
    """Links to the reports in the folder and to its files, but for those that a finished run need not keep."""
    names = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        if path.is_dir() and path.name != "images":
            names.append(f"{path.name}/index.html" if (path / "index.html").exists() else f"{path.name}/")
        elif path.is_file() and path.suffix not in (".tmp", ".html", ".png") and path.name not in PASSING:
            names.append(path.name)
    links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a>' for name in names)
    return f"<ul>{links}</ul>"

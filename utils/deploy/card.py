"""The command card: MODEL_CARD.md of a run, for whoever gets its model. It says what is on record, and nothing else."""

import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from utils import UserError
from utils.files import megabytes, write_atomically
from utils.notices import counted
from utils.options.kinds import dashed
from utils.run.checkpoint_file import read_checkpoint
from utils.run.resume import find_best
from utils.runs.table import number, shown, spent
from utils.watch.page import PICTURES, best_row, content, rounded, rows_of

MARK = "<!-- written by `python main.py card`, which replaces it -->"
ROWS = 50  # of a table
MISTAKES = 5  # pairs of classes that are named
SHOWN = "curves", "confusion", "mistakes", "roc", "pr", "labels", "train_batch_0"  # pictures
TABLES = "report", "iou", "coco"  # per class, those of the run's job


def card(program: ModuleType, opt: Any) -> None:
    """Write MODEL_CARD.md into the folder of the newest trained run, or of --run. Raises UserError where there is none,
    and for a file of that name that is somebody's own."""
    best, _ = find_best(opt)
    path = best.with_name("MODEL_CARD.md")
    text = "\n\n".join(sections(best, opt))
    try:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
            raise UserError(f"{path} was not written by this command, and stays: give it another name")
        write_atomically(path, lambda file: file.write(f"{MARK}\n\n{text}\n"))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make its folder writable") from None
    print(f"wrote {path}")


def sections(best: Path, opt: Any) -> Iterator[str]:
    """The card's parts, from a run's best.pth and what stands beside it. opt: options, for defaults and licence."""
    folder, saved = best.parent, read_checkpoint(best)
    info, config = saved.get("info", {}), content(folder / "config.yaml")
    starts = [one for one in config.pop("run", None) or () if isinstance(one, dict)]
    rows = rows_of(folder / "results.csv")
    report = next((one for one in (folder / "best_report", folder) if (one / "measures.csv").is_file()), folder)
    yield f"# {plain(saved.get('model', 'model'))}: {plain(folder.absolute().name)}"
    origin = info.get("origin", {})
    licence = opt.licence or "not stated (`python main.py card --licence=...` states it)"
    began = f"weights of {origin.get('source')}, licence {origin.get('licence')}" if origin else ""
    size = sum(one.numel() for one in saved["weights"].values())
    pruned = f"{counted(len(info['channels']), 'layer')} with fewer channels" if info.get("channels") else ""
    yield facts(
        licence=licence,
        classes=f"{len(info['classes'])}: {', '.join(info['classes'][:ROWS])}" if info.get("classes") else "",
        input=f"pictures of {config.get('image_size')} pixels" if config.get("image_size") else "",
        weights=f"{size:,} numbers, best.pth {megabytes(best.stat().st_size)}",
        **{"began with": began, "pruned": pruned},
    )
    yield "## Data"
    yield data(folder, info, config, report)
    yield "## Training"
    yield training(config, starts, rows, opt, sum(info.get("counts", ())))
    yield "## How good it is"
    yield "\n\n".join(quality(folder, report, config, rows, saved.get("metrics", {}).get("epoch")))
    yield "## Limits"
    yield "\n".join(f"- {line}" for line in limits(info, config, report))


def data(folder: Path, info: dict[str, Any], config: dict[str, Any], report: Path) -> str:
    """What it was trained and validated on, with a table of samples per class."""
    broken = folder / "broken.txt"
    lost = broken.read_text("utf-8", "replace").splitlines() if broken.is_file() else []
    roots = ", ".join(map(str, config.get("train_data_root") or ()))
    other = ", ".join(map(str, config.get("val_data_root") or ()))
    text = facts(
        **{"data set": f"{config.get('dataset')} of {roots}" if config else "not on record"},
        validation=other or "what the data set keeps for it; the model was not trained on that",
        **{"left out": f"{counted(len(lost), 'sample')} that could not be read (broken.txt)" if lost else ""},
    )
    measured = {row.get("class"): row.get("support", "") for row in rows_of(report / "report.csv")}
    names, counts = info.get("classes", ()), info.get("counts", ())
    cells = [(name, str(count), measured.get(name, "")) for name, count in zip(names, counts, strict=False)]
    return "\n\n".join([text, *table(("class", "trained on", "validated on"), cells)])


def training(config: dict[str, Any], starts: Sequence[dict[str, Any]], rows: Sequence[Any], opt: Any, size: int) -> str:
    """How it was trained: commands, code, packages, options that are not the defaults, time. size: samples of an epoch,
    0 where they are not on record."""
    last = starts[-1] if starts else {}
    commit = f"{last['git_commit']}{' with changes' if last.get('git_dirty') else ''}" if last.get("git_commit") else ""
    defaults = opt.root()().values()
    changed = {name: one for name, one in config.items() if name in defaults and one != defaults[name]}
    seconds = sum(number(row.get("seconds")) or 0 for row in rows)
    speeds = [size / one for row in rows if (one := number(row.get("train_seconds")))]
    speed = f"{statistics.median(speeds):.3g} samples/s in training, median of the epochs; " if size and speeds else ""
    commands = [f"python {shlex.join(map(str, start.get('command') or ()))}" for start in starts]
    text = facts(
        started=", ".join(str(one.get("started")) for one in starts) or "not on record",
        epochs=f"{len(rows)} of {config.get('max_epoch')}, {spent(seconds)}" if rows else "",
        speed=f"{speed}predictions were not timed",
        commit=commit,
        packages=", ".join(f"{name} {one}" for name, one in (last.get("versions") or {}).items() if one),
        options=" ".join(f"`{dashed(name)}={shown(one)}`" for name, one in changed.items() if name != "config"),
    )
    return "\n\n".join([text, *(["```bash\n" + "\n".join(commands) + "\n```"] if commands else [])])


def quality(
    folder: Path, report: Path, config: dict[str, Any], rows: list[dict[str, str]], epoch: int | None
) -> Iterator[str]:
    """Best epoch, measures, tables and pictures of the report, which is of best.pth or else of the last epoch. epoch:
    that of best.pth."""
    best = best_row(rows, config.get("monitor"))
    about = content(report / "about.yaml")
    what = f"best.pth on {about.get('samples')} samples of {about.get('data')}, {about.get('date')}" if about else ""
    last = int(rows[-1].get("epoch") or 0) if rows else 0
    ours = "best.pth" if last == epoch else f"the model of epoch {last}, which is not best.pth: `val` measures that"
    yield facts(**{"best epoch": best, "the numbers below are of": what or ours})
    measures = rows_of(report / "measures.csv")
    yield from table(("measure", "value"), [(row.get("name", ""), rounded(row.get("value", ""))) for row in measures])
    for name in TABLES:
        known = rows_of(report / f"{name}.csv")
        yield from table([*known[0]] if known else (), [[rounded(one) for one in row.values()] for row in known])
    for name in SHOWN:
        picture = next((one / f"{name}.png" for one in (report, folder) if (one / f"{name}.png").is_file()), None)
        if picture:
            caption = PICTURES.get(name, "Of the last training batch, as the model saw it.")
            yield f"![{plain(caption)}]({quote(picture.relative_to(folder).as_posix())})\n\n*{plain(caption)}*"


def limits(info: dict[str, Any], config: dict[str, Any], report: Path) -> Iterator[str]:
    """What is known of where it fails."""
    if info.get("classes"):
        yield "It knows these classes alone; whatever else it is shown, it answers with one of them."
    if not config.get("val_data_root"):
        yield (
            "It was measured on samples of the same origin as those that it learnt from; how it does on others is not "
            "on record, often it is worse."
        )
    rows = rows_of(report / "report.csv")
    support = {
        row["class"]: number(row.get("support")) or 0 for row in rows if row.get("class") in info.get("classes", ())
    }
    if total := sum(support.values()):
        yield f"It was measured on {total:g} samples: a single one of them is {100 / total:.2g} %."
        recall = {row["class"]: number(row.get("recall")) or 0 for row in rows if support.get(row.get("class", ""))}
        least = min(recall, key=lambda name: recall[name])
        yield f"It finds {plain(least)} least: {100 * recall[least]:.4g} % of its {support[least]:g} samples."
    for count, true, predicted in confused(rows_of(report / "confusion.csv"))[:MISTAKES]:
        yield f"It took {plain(true)} for {plain(predicted)} in {counted(count, 'sample')}."
    yield "How it does on groups that its classes do not tell apart (light, camera, people) is not on record."


def confused(rows: Iterable[dict[str, str]]) -> list[tuple[int, str, str]]:
    """(count, true class, predicted class) of a confusion.csv's mistakes, the most frequent first."""
    found = []
    for row in rows:
        true, *counts = row.items()
        found += [(int(one), true[1], name) for name, one in counts if name != true[1] and one.isdigit() and int(one)]
    return sorted(found, key=lambda one: -one[0])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """[a table in Markdown], of many rows the first; [] without rows."""
    cells = [" | ".join(map(plain, row)) for row in (header, *rows[:ROWS])]
    lines = [cells[0], " | ".join("---" for _ in header), *cells[1:]]
    more = [f"and {len(rows) - ROWS:,} more, in the run's folder"] if len(rows) > ROWS else []
    return ["\n".join(f"| {line} |" for line in lines), *more] if rows else []


def facts(**named: Any) -> str:
    """A list in Markdown of what is not empty."""
    return "\n".join(f"- **{name}**: {plain(one)}" for name, one in named.items() if one)


def plain(text: Any) -> str:
    """Text that Markdown shows as it is, on one line; what stands between `back quotes` is code."""
    pieces = re.split(r"(`[^`]*`)", " ".join(str(text).split()))
    return "".join(one if one.startswith("`") else re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one) for one in pieces)

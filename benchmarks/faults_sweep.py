"""A sweep whose processes are killed with -9: whether a trial is lost or run twice, whether a resumed one ends in the
same bits, and what a trial costs more than a bare run.

    python -m benchmarks.faults_sweep    in the project's folder; five minutes

12 trials of the preset Heart, three epochs each, by two processes, each of which is killed twice, at random moments of
its training. Then every run that was resumed and finished all its epochs is trained again, undisturbed. --study takes
the place of the journal: sqlite:///FILE, or a PostgreSQL address with an empty database; with --places=2 two machines,
as far as hearth can tell, work on it in folders of their own.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, Report, arguments, hardware, ratios, spread
from benchmarks.faults_signals import NO_REPORTS, state
from tests.fork_server import Server
from utils.options.options import read_yaml
from utils.run.run import read_rows
from utils.runs.table import read_run

HEART = ["--config=Heart", "--max-epoch=3", "--keep-every=0", "--vis-port=1"]
VARIED = ["--lr=1e-2..1", "--momentum=0.5..0.95"]
TRIALS, KILLS = 12, 4
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def children(pid):
    """The processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def training(pid):
    """The run's folder of a process that trains, or None."""
    try:
        return Path(os.readlink(f"/proc/{pid}/fd/1")).parent
    except OSError:
        return None


def steps(folder):
    """How many points of its loss a training has recorded; 0 where there is none."""
    record = folder / "events.jsonl" if folder else None
    return record.read_text().count('"loss"') if record and record.is_file() else 0


def disturb(parents, kills, draw):
    """Kill a process that has made steps, `kills` times, each of them in turn; the runs that were hit."""
    hit, before = [], {}
    while len(hit) < kills and any(parent.poll() is None for parent in parents):
        time.sleep(draw.uniform(0.2, 2))
        found = [(pid, training(pid)) for parent in parents for pid in children(parent.pid)]
        found = [(pid, folder) for pid, folder in found if steps(folder) > before.get(folder, 0)]
        found = [(pid, folder) for pid, folder in found if folder not in hit[-1:]]
        if found:
            pid, folder = draw.choice(found)
            os.kill(pid, signal.SIGKILL)
            hit.append(folder)
            time.sleep(1)
            before[folder] = steps(folder)
    return hit


def start(folder, options, place=""):
    """A sweep in a folder."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", f"import matplotlib.figure; {NO_REPORTS}\n" + RUN, *HEART, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({"HEARTH_MACHINE": place} if place else {})}
    return subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL)


RUN = f"import runpy, sys; sys.argv[0] = {str(ROOT / 'main.py')!r}; sys.path.insert(0, {str(ROOT)!r})\n"
RUN += "sys.argv.insert(1, 'sweep'); runpy.run_path(sys.argv[0], run_name='__main__')"


def killed(report, folder, study, places, draw):
    """The sweep with its kills; the runs."""
    options = [*VARIED, f"--trials={TRIALS}", f"--jobs={2 // places}", *([f"--study={study}"] if study else [])]
    parents = []
    for number in range(places):
        parents.append(start(folder / str(number), options, f"machine {number}" * (places > 1)))
        time.sleep(8 * (places > 1))  # the first one makes the study
    hit = disturb(parents, KILLS, draw)
    codes = [parent.wait() for parent in parents]
    runs = sorted(folder.glob("*/checkpoints/sweep_*/config.yaml"))
    found = [read_run(path.parent) for path in runs]
    numbers = [int(run.folder.name.split("_")[1]) for run in found]
    rows = [[int(row["epoch"]) for row in read_rows(run.folder)] for run in found]
    whole = all(row == [*range(1, len(row) + 1)] for row in rows)
    starts = [len(read_yaml(path, ())["run"]) for path in runs]
    report(f"exit codes {codes}; killed while it trained: {', '.join(one.name for one in hit)}")
    report(
        f"runs {len(found)}, states {sorted({run.state for run in found})}, numbers 0 to 11, each once: "
        f"{numbers and sorted(numbers) == [*range(TRIALS)]}; every epoch once and in order: {whole}"
    )
    report(
        f"starts {sum(starts)} = {TRIALS} trials + {KILLS} kills: {sum(starts) == TRIALS + len(hit)}; "
        f"epochs {[len(row) for row in rows]}"
    )
    return [run for run in found if run.folder in hit and len(run.rows) == 3]


def undisturbed(report, runs, folder):
    """Train the same again, with nobody killing it, and compare everything in the checkpoints."""
    folder.mkdir()
    with Server(NO_REPORTS) as server:
        for number, run in enumerate(runs):
            place = folder / str(number)
            place.mkdir()
            options = [f"--{name}={run.options[name]!r}" for name in ("lr", "momentum")]
            code = server.run("train", *HEART, *options, cwd=place, first="import torch; torch.set_num_threads(1)")
            assert code == 0, (place / "output").read_text()
            copy = folder / f"copy_{number}"
            (copy / "checkpoints").mkdir(parents=True)
            (copy / "checkpoints" / "run").symlink_to(run.folder.resolve())
            report(
                f"{run.folder.name}, resumed, {'equals' if state(copy) == state(place) else 'DIFFERS FROM'} "
                "the undisturbed run"
            )


def overhead(report, folder, n):
    """Seconds of the processor for four trials one after another and for four bare runs, whole programs."""
    folder.mkdir()
    sweeps, bare = [], []
    for turn in range(n):
        sweeps.append(spent(start(folder / f"s{turn}", ["--seed=0,1,2,3", "--trials=4"])))
        total = 0.0
        for seed in range(4):
            code = RUN.replace("'sweep'", "'train'")
            command = [
                sys.executable,
                "-c",
                f"import matplotlib.figure; {NO_REPORTS}\n{code}",
                *HEART,
                f"--seed={seed}",
            ]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            total += spent(subprocess.Popen(command, cwd=folder, env=env, **QUIET))
        bare.append(total)
    report(f"four trials  {spread(sweeps, 's of the processor')}")
    report(f"four runs    {spread(bare, 's of the processor')}; a sweep takes {ratios(sweeps, bare)} of them")


def spent(process):
    """Seconds of the processor that a process and all that it started have taken."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = arguments(__doc__, n=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments, 0")
    parser.add_argument("--study", help="in the place of the journal")
    parser.add_argument("--places", type=int, default=1, help="machines, 1")
    given = parser.parse_args()
    draw, report = random.Random(given.seed), Report(__file__)
    report(
        f"{hardware('torch', 'optuna')}; study {(given.study or 'journal').partition(':')[0]}, places {given.places}"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        study = given.study or (str(folder / "study.journal") if given.places > 1 else None)
        resumed = killed(report, folder, study, given.places, draw)
        undisturbed(report, resumed, folder / "undisturbed")
        if given.n:
            overhead(report, folder / "overhead", given.n)
    report.save(given.results)


if __name__ == "__main__":
    main()

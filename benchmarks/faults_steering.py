"""Random commands at random moments, with kill -9 in between: no hang, each answered or reported lost, exact resumes.

    python -m benchmarks.faults_steering    in the project's folder; some minutes

A run gets 20 commands of `control`; while two of them are under way its process is killed, and the run is resumed. In
the end it is given a last epoch, and another run replays it: both have to end in the same bits. Prints for each run how
many commands were answered, refused and lost, and the names of the entries in which the two runs differ.
"""

import os
import random
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.common import Report, arguments, hardware
from tests.fork_server import Server
from utils import UserError
from utils.run.checkpoint_file import read_checkpoint
from utils.steer.channel import listening, send

HEART = ["--config=Heart", "--vis-port=1", "--keep-every=0", "--batch-size=1000", "--scheduler=constant"]
HANGS = 300.0  # seconds after which a command counts as hanging
# No reports, and steps that take a little longer: so a command comes in time.
SLOWER = """
import time
from matplotlib.figure import Figure
from utils.train.step import TrainStep
Figure.savefig = lambda *_, **__: None
apply = TrainStep.apply
def slower(self, number):
    apply(self, number)
    time.sleep(0.02)
TrainStep.apply = slower
"""


def start(server, folder, *options):
    """Begin or resume a training in `folder`: (its pid, the run's folder, as soon as it listens)."""
    pid = server.start("train", *options, cwd=folder, first=SLOWER)
    while not (found := [path.parent.parent for path in folder.glob("checkpoints/*/control/0.address")]):
        time.sleep(0.01)
    while listening(found[0], 0).get("socket") is None or not Path(listening(found[0], 0)["socket"]).exists():
        time.sleep(0.01)
    return pid, found[0]


def command(draw):
    """One command, as control sends it."""
    part = [draw.choice(("layers.1", "layers.3", "layers.5"))]
    choices = {"lr": draw.uniform(0.01, 0.1), "freeze": part, "unfreeze": part, "pause": True, "go_on": True}
    choices |= {"save": True, "print_freq": draw.randint(1, 9), "status": True, "max_epoch": draw.randint(500, 900)}
    return dict([draw.choice([*choices.items()])])


def ask(run, what, then=bool):
    """What came of a command: "answered", "refused", "lost" or "hangs"; then() is called while it is under way."""
    found = ["hangs"]

    def wait():
        try:
            found[0] = "refused" if "refused: " in send(run, what) else "answered"
        except UserError:
            found[0] = "lost"

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    then()
    thread.join(HANGS)
    return found[0]


def steer(server, folder, draw, commands, kills):
    """Steer a run to its end, and kill it so many times meanwhile: (the run's folder, what came of each command)."""
    pid, run = start(server, folder, *HEART, "--max-epoch=1000")
    fatal, came = draw.sample(range(commands), kills), []
    for number in range(commands):
        time.sleep(draw.uniform(0, 0.3))
        moment = draw.uniform(0, 0.05)

        def kill(pid=pid, moment=moment):
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)

        came.append(ask(run, command(draw), kill if number in fatal else bool))
        if number in fatal:
            server.wait()
            (run / "control" / "0.address").unlink(missing_ok=True)
            pid, run = start(server, folder, "--resume")
    came.append(ask(run, {"go_on": True}))
    epoch = int(re.search(r"epoch (\d+)/", send(run, {"status": True}))[1])
    came.append(ask(run, {"max_epoch": epoch + 2}))  # the next one may have begun meanwhile
    assert server.wait() == 0, (folder / "output").read_text()
    return run, came


def differing(run, other):
    """The entries of two runs' last checkpoints that differ."""
    one, two = (
        {name: repr(value) if name == "run" else value for name, value in read_checkpoint(each / "last.pth").items()}
        for each in (run, other)
    )
    weights = [name for name, value in one["weights"].items() if not value.equal(two["weights"][name])]
    return weights + (["run"] if one["run"] != two["run"] else [])


def replay(server, run, folder):
    """Repeat a run: the folder of the other one."""
    code = server.run("train", *HEART, "--max-epoch=1000", f"--replay={run}", cwd=folder, first=SLOWER)
    assert code == 0, (folder / "output").read_text()
    (other,) = (folder / "checkpoints").iterdir()
    return other


def main():
    """Measure and print."""
    parser = arguments(__doc__, 10)
    parser.add_argument("--seed", type=int, default=0, help="of the commands and their moments, 0")
    given = parser.parse_args()
    draw, report = random.Random(given.seed), Report(__file__)
    report(hardware("torch"))
    with tempfile.TemporaryDirectory() as place, Server() as server:
        for number in range(given.n):
            steered, again = (Path(place, f"{name}_{number}") for name in ("steered", "again"))
            steered.mkdir()
            again.mkdir()
            run, came = steer(server, steered, draw, commands=20, kills=2)
            differ = differing(run, replay(server, run, again))
            counts = ", ".join(f"{came.count(word)} {word}" for word in ("answered", "refused", "lost", "hangs"))
            report(f"run {number + 1}: {counts}; entries that differ from the replay's: {', '.join(differ) or 'none'}")
    report.save(given.results)


if __name__ == "__main__":
    main()

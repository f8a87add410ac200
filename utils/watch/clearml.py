"""ClearML, offline: a zip for `Task.import_offline_session` on a machine that has a server."""

import atexit
import io
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from utils import UserError
from utils.events import Callback
from utils.options.options import read_yaml

from .tracker import Tracker

MAIN = Path(__file__).resolve().parents[2] / "main.py"
BOUND = "matplotlib tensorflow tensorboard pytorch xgboost scikit fastai lightgbm hydra joblib megengine catboost"
# What ClearML does by itself: to find the code it looks at today's, and asks the network for a newer version of itself.
OFF = dict.fromkeys(["detect_repository", "gradio", *BOUND.split()], False)


class ClearML(Tracker):
    """Writes `clearml.zip` into the run's folder: curves, pictures, log, options, config.yaml, the code's commit and
    diff, packages and best.pth, as they are on record. It needs no network.

    ClearML sets the seeds, replaces functions of PyTorch and takes ten seconds to close: so all of it is done when the
    run has ended, by a process of its own, which holds up nothing. The zip is there when it is whole.
    """

    needs = "clearml"
    on_train_begin = on_train_summary = on_epoch_end = Callback._ignore

    def on_train_end(self, **_: Any) -> None:
        command = [sys.executable, str(MAIN), "replay", f"--run={self.folder.absolute()}", "--to=ClearML"]
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.Popen(command, start_new_session=True, **nothing)  # type: ignore[call-overload]

    def begin(self) -> None:
        """Open an offline task."""
        self.work = (self.folder / "clearml").absolute()
        shutil.rmtree(self.work, ignore_errors=True)  # of one that was killed
        atexit.register(shutil.rmtree, self.work, ignore_errors=True)
        os.environ["CLEARML_CACHE_DIR"] = str(self.work)
        from clearml import Task

        Task.set_offline(True)
        with redirect_stdout(io.StringIO()):  # it names a folder that will be gone
            self.task: Any = Task.init(
                project_name="hearth",
                task_name=self.folder.name,
                reuse_last_task_id=False,
                auto_connect_arg_parser=False,
                auto_connect_frameworks=OFF,
                auto_connect_streams=False,
                auto_resource_monitoring=False,
            )
        self.logger: Any = self.task.get_logger()
        self.points = 0

    def scalar(self, name: str, step: int, value: float, time: float) -> None:
        """A point."""
        self.logger.report_scalar(name, name, value, step)
        self.points += 1

    def picture(self, name: str, step: int, path: Path, time: float) -> None:
        """A picture."""
        self.logger.report_image(name, name, step, local_path=str(path), max_image_history=-1)

    def text(self, line: str, time: float) -> None:
        """A line of the log."""
        self.logger.report_text(line, print_console=False)

    def end(self, options: dict[str, Any], metrics: dict[str, float]) -> None:
        """The rest of the record, and the zip. Raises OSError where it is not whole: ClearML only logs what fails."""
        self.task.connect(options, name="Args")
        for name, value in metrics.items():
            self.logger.report_single_value(name, value)
        if (config := self.folder / "config.yaml").is_file():
            self.task.connect_configuration(config, name="config.yaml")
        self.describe_code()
        best = self.folder / "best.pth"
        if best.is_file():
            self.task.upload_artifact(best.name, str(best))
        with redirect_stdout(io.StringIO()):
            self.task.close()
        made = Path(f"{self.task.get_offline_mode_folder()}.zip")
        with zipfile.ZipFile(made) as archive:
            written = archive.read("metrics.jsonl").count(b'"training_stats_scalar"') if self.points else 0
            kept = not best.is_file() or any(name.endswith("/best.pth") for name in archive.namelist())
        if written < self.points or not kept:
            raise OSError(f"{written} of {self.points} points are in {made}")
        os.replace(made, self.folder / "clearml.zip")

    def describe_code(self) -> None:
        """Commit, diff and packages of the run's last start, from config.yaml; today's code may be another one."""
        from clearml.backend_api.services import tasks

        starts: list[Any] = []
        with suppress(UserError, LookupError, TypeError):
            starts = [*read_yaml(self.folder / "config.yaml", ())["run"]]
        start = starts[-1] if starts else {}
        diff = self.folder / f"source_{len(starts)}.diff"
        versions = {name: text for name, text in start.get("versions", {}).items() if text and name != "hearth"}
        python = versions.pop("python", "")
        self.task._edit(
            script=tasks.Script(
                binary=f"python{python}",
                entry_point="main.py",
                version_num=start.get("git_commit") or "",
                diff=diff.read_text("utf-8", "replace") if diff.is_file() else "",
                requirements={"pip": "\n".join(f"{name}=={text}" for name, text in versions.items())},
            )
        )

"""Trackio: `trackio show` draws the runs in its data base."""

import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils import UserError

from .tracker import Tracker

PROJECT = "hearth"


class Trackio(Tracker):
    """Writes the run's curves, pictures and options into trackio's data base (SQLite): in the folder of the environment
    variable TRACKIO_DIR, where several runs can be compared, else in the folder `trackio` of the run. A resumed run
    writes it again, from its record. It needs no network: trackio's own `init`, which asks for user and space, is not
    called."""

    needs = "trackio"

    def begin(self) -> None:
        """Remove what the data base has of this run. Raises UserError where trackio is bound to another folder: it can
        have one in a process."""
        chosen = os.environ.get("TRACKIO_DIR")
        folder = Path(chosen or self.folder / "trackio").absolute()
        os.environ["TRACKIO_DIR"] = str(folder)  # trackio reads it when it is imported
        try:
            from trackio.sqlite_storage import SQLiteStorage
            from trackio.utils import MEDIA_DIR, TRACKIO_DIR
        finally:
            if not chosen:
                del os.environ["TRACKIO_DIR"]
        if TRACKIO_DIR.absolute() != folder:
            raise UserError(
                f"in this process trackio writes into {TRACKIO_DIR}: set TRACKIO_DIR for all runs, or replay"
            )
        self.storage = SQLiteStorage
        self.rows: list[tuple[dict[str, Any], int, float]] = []
        self.known = False  # the options are written
        self.storage.delete_run(PROJECT, self.folder.name)
        shutil.rmtree(MEDIA_DIR / PROJECT / self.folder.name, ignore_errors=True)

    def scalar(self, name: str, step: int, value: float, time: float) -> None:
        """A point."""
        self.rows.append(({name: value}, step, time))

    def picture(self, name: str, step: int, path: Path, time: float) -> None:
        """A picture, which is copied."""
        from trackio import Image

        picture = Image(path, caption=name)
        picture._save(PROJECT, self.folder.name, step)
        self.rows.append(({name: picture._to_dict()}, step, time))

    def flush(self) -> None:
        """Write the rows, the first ones with the run's options."""
        if self.rows:
            values, steps, times = map(list, zip(*self.rows, strict=True))
            stamps = [datetime.fromtimestamp(time, timezone.utc).isoformat() for time in times]
            name, config = self.folder.name, None if self.known else self.options()
            self.storage.bulk_log(PROJECT, name, values, steps, timestamps=stamps, config=config, run_id=name)
            self.rows, self.known = [], True

"""Whether the tests notice when a line that matters is broken: `make mutants`, a quarter of an hour on two cores.

usage: python tests/mutants.py [--only=SUBSTRING] [--jobs=2] [--list]

It copies the tree, applies one break of helpers/breaks.py at a time and runs the tests that should fail then. The last
line counts the breaks that survived: each needs a test that fails when the line is broken. The exit code is 1 then.
"""

import argparse
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from helpers.breaks import BREAKS

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds after which a break counts as noticed: the tests hang, and somebody would see that


class Break(NamedTuple):
    """One line that is broken: `text` in `file`, a path below the project's root, becomes `broken`."""

    file: str
    text: str
    broken: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.text.split())} -> {' '.join(self.broken.split()) or 'nothing'}"

    def misplaced(self, root: Path) -> bool:
        """Whether the text does not occur exactly once in the file."""
        return not (root / self.file).is_file() or (root / self.file).read_text().count(self.text) != 1


ALL = [Break(file, *one) for file, some in BREAKS.items() for one in some]


def copy_tree(folder: Path) -> Path:
    """A copy of all files that git does not ignore, with links to the virtual environment and to shared/."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():  # else it was deleted and is still in the index
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for there, link in ((ROOT / ".venv", folder / ".venv"), (ROOT.parent / "shared", folder.parent / "shared")):
        if there.exists() and not link.exists():
            link.symlink_to(there)
    return folder


def together(breaks: list[Break]) -> list[str]:
    """The tests of these breaks, those of one file together."""
    files: dict[str, dict[str, None]] = {}
    for one in (one for each in breaks for one in each.tests.split()):
        files.setdefault(one.partition(":")[0], {})[one] = None
    return [" ".join(tests) for tests in files.values()]


def run_tests(root: Path, tests: str) -> int:
    """pytest's exit code for these tests of the copy: 0 where all pass, 1 where one fails; 1 also where they hang."""
    files, names = zip(*(one.partition(":")[::2] for one in tests.split()), strict=True)
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    command += [*(f"tests/{file}" for file in dict.fromkeys(files)), "-k", " or ".join(filter(None, names))]
    try:
        return subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def code_when_broken(root: Path, one: Break) -> int:
    """run_tests of a break's tests, while the line is broken."""
    path, whole = root / one.file, (root / one.file).read_text()
    path.write_text(whole.replace(one.text, one.broken))
    try:
        return run_tests(root, one.tests)
    finally:
        path.write_text(whole)


def try_all(chosen: list[Break], jobs: int) -> int:
    """Try these breaks, in `jobs` copies of the tree. Returns how many were not noticed."""
    pool, copies = ThreadPoolExecutor(jobs), queue.Queue[Path]()

    def in_a_copy(function: Callable[[Path, Any], int], argument: Any) -> int:
        root = copies.get()
        try:
            return function(root, argument)
        finally:
            copies.put(root)

    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(jobs):
                copies.put(copy_tree(Path(folder, f"{number}", "hearth")))
            whole, survived = together(chosen), 0
            for tests, code in zip(whole, pool.map(partial(in_a_copy, run_tests), whole), strict=True):
                if code:  # tests that fail anyway would notice nothing
                    sys.exit(f"pytest ends with {code} where nothing is broken: {tests}")
            for one, code in zip(chosen, pool.map(partial(in_a_copy, code_when_broken), chosen), strict=True):
                found = {0: "SURVIVED", 1: "killed"}.get(code, f"pytest ends with {code}")
                print(f"{found}: {one} ({one.tests})", flush=True)
                survived += code != 1
            return survived
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    """Run what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the lines that --list prints")
    parser.add_argument("--jobs", type=int, default=2, help="breaks that are tried at a time")
    parser.add_argument("--list", action="store_true", help="print the breaks and their tests, and run nothing")
    options = parser.parse_args()
    chosen = [one for one in ALL if options.only in f"{one} ({one.tests})"]
    misplaced = [one for one in chosen if one.misplaced(ROOT)]
    for one in misplaced or (chosen if options.list else ()):
        print(f"{'does not occur exactly once: ' if misplaced else ''}{one} ({one.tests})")
    if misplaced or options.list:
        return bool(misplaced)

    survived = try_all(chosen, options.jobs)
    print(f"{len(chosen)} breaks, {survived} of them not noticed")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())

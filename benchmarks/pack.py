"""Should a pack be mapped into memory, or read? Speed and resident memory of random batches.

    python -m benchmarks.pack [--n=5] [--gigabytes 2 240]

Rows of 256 x 256 x 3 from files of these sizes, which are all holes and take no room on the disk; every batch of 32 is
in the page cache before it is timed. Each way in a process of its own, by turns:
  read      os.preadv of every row, as data/pictures/pack.py does
  mapped    numpy's indexing of the mapped file; its pages stay in the process
  dropped   the same, and after every batch madvise(MADV_DONTNEED)
"""

import json
import subprocess
import sys
import tempfile

from benchmarks.common import ROOT, Report, arguments, hardware, ratios, spread

BATCHES = """
import json, mmap, os, sys, time
import numpy as np
way, path, size = sys.argv[1], sys.argv[2], 256 * 256 * 3
count, file, times = os.path.getsize(path) // size, os.open(path, os.O_RDONLY), []
mapped = mmap.mmap(file, count * size, access=mmap.ACCESS_READ)
rows, rng = np.frombuffer(mapped, np.uint8).reshape(count, size), np.random.default_rng(0)
for _ in range(200):
    places = rng.integers(0, count, 32).tolist()
    for place in places:
        os.pread(file, size, place * size)
    began = time.perf_counter()
    if way == "read":
        batch = np.empty((32, size), np.uint8)
        for row, place in zip(batch, places):
            os.preadv(file, [row], place * size)
    else:
        batch = rows[places]
    if way == "dropped":
        mapped.madvise(mmap.MADV_DONTNEED)
    times.append((time.perf_counter() - began) / 32 * 1e6)
resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
print(json.dumps([float(np.median(times)), resident / 1e6]))
"""


def main():
    """Measure and print."""
    parser = arguments(__doc__, n=5)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[2, 240], help="sizes of the files, 2 240")
    options, report = parser.parse_args(), Report(__file__)
    report(hardware("numpy"))
    for gigabytes in options.gigabytes:
        found = {"read": [], "mapped": [], "dropped": []}
        with tempfile.NamedTemporaryFile(dir=ROOT) as file:
            file.truncate(round(gigabytes * 1e9))
            for way in list(found) * options.n:
                command = [sys.executable, "-c", BATCHES, way, file.name]
                found[way].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
        report(f"{gigabytes:g} GB, microseconds a picture:")
        base = [time for time, _ in found["read"]]
        for way, measured in found.items():
            times, memory = zip(*measured, strict=True)
            line = f"  {way:8}{spread(times, 'us')}, ratio {ratios(times, base)}"
            report(f"{line}; resident at the end {max(memory):,.0f} MB")
    report.save(options.results)


if __name__ == "__main__":
    main()

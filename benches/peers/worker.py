"""One engine in a process of its own, so that its threads, memory and start are its own.

Started by `compare.py` as `worker.py ENGINE FOLDER THREADS`. It writes one JSON line when the first result is there
and one for each request `{"runs": n, "warm": m}` read from standard input; end of input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from peers.engines import INPUT, LIBRARIES


def peak_rss() -> int:
    """The largest resident size of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its figure includes the parent's memory at the time of the fork.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Results travel on a duplicate of standard output: libraries that print cannot disturb them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    engine = LIBRARIES[name].engine(folder, threads)
    x = engine.prepare(np.load(folder / INPUT))
    y = engine.run(x)
    answer(first=True)
    np.save(folder / f"{name}.npy", engine.result(y))

    for line in sys.stdin:
        request = json.loads(line)
        for _ in range(request["warm"]):
            engine.run(x)
        milliseconds = []
        for _ in range(request["runs"]):
            start = time.perf_counter()
            engine.run(x)
            milliseconds.append(1e3 * (time.perf_counter() - start))
        answer(milliseconds=milliseconds, peak_rss=peak_rss())


if __name__ == "__main__":
    main()

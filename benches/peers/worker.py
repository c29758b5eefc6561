"""One engine in a process of its own, so that its threads, memory and start are its own.

Started by `compare.py` as `worker.py TASK LIBRARY FOLDER THREADS`. It writes one JSON line when the first result is
there and one for each request read from standard input: `{"runs": n, "warm": m}` times runs, `{"check": true}`, which
must be the first, writes what is compared to `LIBRARY.npz`. End of input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from peers.tasks import TASKS


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
    task, name, folder, threads = TASKS[sys.argv[1]], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    # Results travel on a duplicate of standard output: libraries that print cannot disturb them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    engine = task.libraries[name].engine(folder, threads)
    first = engine.run()
    answer(first=True)

    for line in sys.stdin:
        request = json.loads(line)
        if "check" in request:
            np.savez(folder / f"{name}.npz", **engine.results(first))  # type: ignore[arg-type]
            answer(checked=True)
            continue
        for _ in range(request["warm"]):
            engine.run()
        milliseconds = []
        for _ in range(request["runs"]):
            start = time.perf_counter()
            engine.run()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        answer(milliseconds=milliseconds, peak_rss=peak_rss())


if __name__ == "__main__":
    main()

"""The parent's end of `worker.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from peers.engine import Array
from peers.tasks import TASKS

BENCHES = Path(__file__).parents[1]


class Worker:
    """A process that has one library loaded; it works only while a method waits for it."""

    def __init__(self, task: str, name: str, folder: Path, threads: int) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.checked = folder / f"{name}.npz"
        start = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker", task, name, str(folder), str(threads)],
                cwd=BENCHES,
                env={**os.environ, **TASKS[task].libraries[name].environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._read()
        self.first_result = time.perf_counter() - start
        self.peak_rss = 0

    def run(self, *, runs: int, warm: int) -> list[float]:
        """Milliseconds of `runs` runs after `warm` that are not counted."""
        answer = self._ask(runs=runs, warm=warm)
        self.peak_rss = answer["peak_rss"]
        milliseconds: list[float] = answer["milliseconds"]
        return milliseconds

    def check(self) -> dict[str, Array]:
        """What is compared with the other libraries; before any `run`."""
        self._ask(check=True)
        with np.load(self.checked) as arrays:
            return dict(arrays)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def _ask(self, **request: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"{self.name} ended: {self.log.read_text(errors='replace').strip()[-2000:]}")
        return json.loads(line)

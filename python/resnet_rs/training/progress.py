"""What `fit` and `evaluate` show: a bar on terminals, a rewritten line in notebooks, else a line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from .history import Callback, Logs

__all__ = ["ProgressBar", "clock", "resolve_verbose"]

# Seconds between two updates of a bar.
INTERVAL = 0.2
WIDTH = 24


def in_notebook() -> bool:
    """Whether the program runs in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def resolve_verbose(verbose: object) -> int:
    """Return 0 (nothing), 1 (a bar) or 2 (a line per epoch); "auto" is 1 where a bar can be shown.

    Raises:
        ArgumentError: it is none of these.
    """
    from resnet_rs.errors import ArgumentError

    if verbose == "auto":
        return 1 if in_notebook() or sys.stdout.isatty() else 2
    if isinstance(verbose, bool) or verbose not in (0, 1, 2):
        raise ArgumentError(f"verbose: expected 'auto', 0, 1 or 2, got {verbose!r}")
    return int(str(verbose))


def clock(seconds: float) -> str:
    """A duration as people read it.

    >>> clock(0.04), clock(42.3), clock(3723)
    ('0.0s', '42.3s', '1:02:03')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(logs: Logs | None) -> str:
    """Logs in one line; arrays are left out."""
    plain = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
    return " - ".join(f"{name}: {number(value)}" for name, value in plain.items())


def number(value: float) -> str:
    small = value != 0 and abs(value) < 1e-3
    return f"{value:.4e}" if small or abs(value) >= 1e5 else f"{value:.4f}"


class ProgressBar(Callback):
    """Shows how far it is, how fast, for how long still, and the logs.

    Args:
        verbose: 1 for a bar that is redrawn (by rich, where that is installed and standard output is a terminal), 2 for
            a line per epoch.
    """

    order = 1

    def __init__(self, verbose: int = 1) -> None:
        self.verbose = verbose
        self.live: Any = None
        self.start = self.shown = 0.0
        self.first = self.seen = 0
        self.drawn = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.begin(epoch)

    def begin(self, epoch: int) -> None:
        self.start = self.shown = time.perf_counter()
        self.first, self.epoch = self.run.step, epoch
        self.begun = True

    begun = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.begun = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        if not self.begun:  # resumed in the middle of an epoch
            self.begin(self.run.epoch)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        now = time.perf_counter()
        if self.verbose == 1 and now - self.shown >= INTERVAL:
            self.shown = now
            self.draw(self.line(batch + 1, now) + " - " + describe(logs))

    def line(self, done: int, now: float) -> str:
        """Bar, rate and the time that is left."""
        total, elapsed = self.params["steps"], max(1e-9, now - self.start)
        rate = (done - self.first) / elapsed
        samples = self.run.mean.count * (done - self.first) / max(1, done) / elapsed
        head = f"Epoch {self.epoch + 1}/{self.params['epochs']}"
        speed = f"{samples:.0f} samples/s" if samples >= 10 else f"{samples:.2f} samples/s"
        if total is None:
            return f"{head} {done} batches {speed} {clock(elapsed)}"
        filled = WIDTH * done // total
        left = clock((total - done) / rate) if rate else "?"
        return f"{head} [{'=' * filled}{'.' * (WIDTH - filled)}] {done}/{total} {speed} ETA {left}"

    def draw(self, text: str) -> None:
        """Write over the last line."""
        if sys.stdout.isatty() and not in_notebook():
            if self.live is None:
                self.live = live_line()
            if self.live is not None:
                from rich.text import Text

                # Names of metrics are text, not markup.
                self.live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True)
                return
            import shutil

            text = text[: shutil.get_terminal_size().columns - 1]
        print("\r" + text.ljust(self.drawn), end="", flush=True)
        self.drawn = len(text)

    def clear(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        elif self.drawn:
            print("\r" + " " * self.drawn + "\r", end="", flush=True)
            self.drawn = 0

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.trained = time.perf_counter()

    trained = 0.0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        now = time.perf_counter()
        self.clear()
        spent = max(1e-9, (self.trained if self.trained > self.start else now) - self.start)
        share = (self.run.step - self.first) / max(1, self.run.step)
        speed = f"{self.run.mean.count * share / spent:.0f} samples/s"
        print(
            f"Epoch {epoch + 1}/{self.params['epochs']} - {clock(now - self.start)} - {speed} - {describe(logs)}",
            flush=True,
        )
        self.begun = False

    def on_interrupt(self) -> None:
        self.clear()
        print(f"interrupted in epoch {self.run.epoch + 1}, after batch {self.run.step}", flush=True)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.clear()


def live_line() -> Any:
    """A line that rich redraws, None where rich is not installed."""
    try:
        from rich.live import Live
    except ImportError:
        return None
    live = Live("", auto_refresh=False, transient=True)
    live.start()
    return live

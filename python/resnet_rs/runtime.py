"""Threads, instruction sets, memory, versions: what the computation runs on."""

from __future__ import annotations

import os
import platform
import sys
from types import TracebackType

from . import _core
from .checks import check_int
from .errors import MemoryLimitError

__all__ = [
    "available_memory",
    "cpu_info",
    "describe_bytes",
    "get_num_threads",
    "num_threads",
    "require_memory",
    "set_num_threads",
    "show_versions",
    "versions",
]


def set_num_threads(n: int) -> None:
    """Set how many threads the computations of this process use.

    The default is the number of processors that affinity and the cgroup quota leave to the process, or the environment
    variable RESNET_RS_NUM_THREADS. Results do not depend on it: they are the same bit for bit.

    Raises:
        ArgumentError: `n` is not an int, less than 1, or more than the engine's limit.

    >>> before = get_num_threads()
    >>> set_num_threads(2)
    >>> get_num_threads()
    2
    >>> set_num_threads(before)
    """
    _core.set_num_threads(check_int("n, the number of threads", n, 1, 2**31 - 1))


def get_num_threads() -> int:
    """Return how many threads the computations of this process use."""
    return _core.get_num_threads()


class num_threads:
    """Use `n` threads inside a `with` block, then as many as before.

    The number belongs to the process, not to the Python thread that sets it.

    Raises:
        ArgumentError: as `set_num_threads`.

    >>> with num_threads(1):
    ...     get_num_threads()
    1
    """

    def __init__(self, n: int) -> None:
        self.n = check_int("n, the number of threads", n, 1, 2**31 - 1)
        self._before: list[int] = []

    def __enter__(self) -> num_threads:
        before = get_num_threads()
        set_num_threads(self.n)
        self._before.append(before)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        set_num_threads(self._before.pop())


def cpu_info() -> dict[str, object]:
    """Return the processor and what of it is used.

    Keys: "model" (its name), "architecture", "logical_cpus", "available_threads" (what affinity and cgroup quota
    allow), "threads" (in use), "isa" (the instruction set of the kernels in use) and "available_isas".

    >>> cpu_info()["isa"] in cpu_info()["available_isas"]
    True
    """
    return {
        "model": _cpu_model(),
        "architecture": platform.machine(),
        "logical_cpus": os.cpu_count(),
        "available_threads": _core.available_threads(),
        "threads": _core.get_num_threads(),
        "isa": _core.get_isa(),
        "available_isas": _core.available_isas(),
    }


def versions() -> dict[str, str]:
    """Return the versions of resnet_rs, numpy and Python, the platform, the processor, instruction set and threads."""
    import numpy as np

    from . import __version__

    cpu = cpu_info()
    return {
        "resnet_rs": __version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": str(cpu["model"]),
        "isa": f"{cpu['isa']} (of {', '.join(_core.available_isas())})",
        "threads": f"{cpu['threads']} (of {cpu['available_threads']})",
    }


def show_versions() -> None:
    """Print `versions()`: what belongs into a bug report."""
    from ._table import columns, printable

    print(printable(columns(list(versions().items()))))


def available_memory() -> int | None:
    """Return the bytes that can still be allocated without swapping, or None where the system does not tell.

    The smaller of what the machine has left and what the process's cgroups (containers) allow.
    """
    machine = _meminfo()
    return min([*_cgroup_headroom(), *([] if machine is None else [machine])], default=None)


def require_memory(needed: int, what: str) -> None:
    """Raise a MemoryLimitError that names `what` if `needed` bytes are more than there are."""
    # What is sure to fit is not worth a look at the system.
    available = available_memory() if needed > 2**26 else None
    if available is not None and needed > available:
        raise MemoryLimitError(
            f"{what} needs {describe_bytes(needed)}, {describe_bytes(available)} of memory are available"
        )


def describe_bytes(count: int) -> str:
    """Return a number of bytes as people read it, in the units of Keras's summaries.

    >>> describe_bytes(102440608)
    '97.69 MB'
    """
    size, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.2f} {unit}"


def _meminfo() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup_headroom() -> list[int]:
    """What the memory limits of control groups (version 2, version 1) leave, as seen from inside a container."""
    headroom = []
    for folder, limit, usage in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        numbers = [line for name in (limit, usage) for line in _lines(f"{folder}/{name}")]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):  # no limit is written "max"
            # Cached file pages count as used, but the kernel gives them back.
            stat = dict(line.split(" ", 1) for line in _lines(f"{folder}/memory.stat"))
            headroom.append(max(0, int(numbers[0]) - int(numbers[1]) + int(stat.get("inactive_file", "0"))))
    return headroom


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines(path: str) -> list[str]:
    """The lines of a file of the system; none where there is no such file."""
    from pathlib import Path  # milliseconds that a large model or a report can spare, not every import

    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

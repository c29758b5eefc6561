"""What `resnet-rs doctor` looks at: the machine as this process sees it, and whether the kernels agree on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from . import _core
from .functional import conv
from .runtime import versions

__all__ = ["findings", "self_test"]


def cgroup_quota() -> float | None:
    """Processors that the control group grants, or None where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return None if int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def findings() -> dict[str, Any]:
    """Versions, processor, kernels, threads and what limits them."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    quota = cgroup_quota()
    extras = {name: _version(name) for name in ("pillow", "rich", "pyyaml", "h5py")}
    return {
        **versions(),
        "logical cpus": os.cpu_count(),
        "affinity": affinity if affinity is not None else "not known here",
        "cgroup quota": f"{quota:g} cpus" if quota is not None else "none",
        "RESNET_RS_NUM_THREADS": os.environ.get("RESNET_RS_NUM_THREADS", "not set"),
        "RESNET_RS_ISA": os.environ.get("RESNET_RS_ISA", "not set"),
        **{name: version or "not installed" for name, version in extras.items()},
    }


def self_test() -> list[str]:
    """Run a small convolution with every instruction set and several threads; returns what is wrong."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 11, 8), dtype=np.float32)
    w = rng.standard_normal((20, 8, 3, 3), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(1, 2))
    expected = np.einsum("nhwcij,kcij->nhwk", windows, w.astype(np.float64))
    problems = []
    threads, isa = _core.get_num_threads(), _core.get_isa()
    try:
        for name in _core.available_isas():
            _core.set_isa(name)
            _core.set_num_threads(1)
            alone = conv(x, w)
            error = float(np.abs(alone - expected).max() / np.abs(expected).max())
            if not error < 2e-5:
                problems.append(f"{name}: a convolution is off by {error:.1e}")
            _core.set_num_threads(3)
            if not np.array_equal(conv(x, w), alone):
                problems.append(f"{name}: the result depends on the number of threads")
    finally:
        _core.set_isa(isa)
        _core.set_num_threads(threads)
    return problems


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None

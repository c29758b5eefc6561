"""Time of each layer of a network, and how near it comes to the machine's arithmetic peak.

    .venv/bin/python benches/layers.py resnet50 --threads 2

The peak is measured as well: NumPy's matrix product of a size that suits it, on the same number of threads. A layer
above 100 % does fewer multiplications than the direct form that its FLOPs are counted for.
"""

from __future__ import annotations

import argparse
import os
import sys

from nets import NETS


def measured_peak(size: int = 2304, repeats: int = 5) -> float:
    """GFLOP/s of NumPy's single-precision matrix product."""
    import time

    import numpy as np

    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=list(NETS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--peak", type=float, help="GFLOP/s to compare with, instead of measuring it")
    parser.add_argument("--top", type=int, help="only the N slowest layers")
    args = parser.parse_args()
    # Before NumPy is imported, whose threads are counted then.
    os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)

    import numpy as np

    import resnet_rs as rr
    from nets import build

    rr.set_num_threads(args.threads)
    net = NETS[args.net]
    model = build(net)
    x = np.random.default_rng(1).standard_normal((args.batch, *net.input_shape), dtype=np.float32)
    peak = args.peak or measured_peak()
    profile = model.profile(x)
    total, gflop = profile.milliseconds, profile.flops / 1e9
    print(f"{net.name}, {args.threads} threads, {rr.cpu_info()['isa']}, peak {peak:.0f} GFLOP/s")
    print(f"{'layer':36} {'algorithm':24} {'ms':>8} {'%':>6} {'GFLOP/s':>8} {'of peak':>8}")
    layers = sorted(profile, key=lambda layer: -layer["milliseconds"])[: args.top] if args.top else profile
    for layer in layers:
        milliseconds = layer["milliseconds"]
        speed = layer["flops"] / 1e6 / milliseconds if milliseconds else 0.0
        arithmetic = f" {speed:8.0f} {speed / peak:8.0%}" if layer["flops"] else ""
        print(f"{layer['name']:36} {layer['algorithm']:24} {milliseconds:8.3f} {milliseconds / total:6.1%}{arithmetic}")
    print(f"{'all':61} {total:8.3f} {1:6.0%} {gflop / total * 1e3:8.0f} {gflop / total * 1e3 / peak:8.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

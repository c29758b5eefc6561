"""Time of each layer of a network, and how near it comes to the machine's arithmetic peak.

    .venv/bin/python benches/layers.py resnet50 --threads 2

The table of `resnet-rs bench MODEL --layers`, for the networks of the benches. A layer above 100 % of the peak does
fewer multiplications than the direct form that its FLOPs are counted for.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

import resnet_rs as rr
from nets import NETS, build
from resnet_rs.profile import Profile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=list(NETS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--top", type=int, help="only the N slowest layers")
    args = parser.parse_args()
    rr.set_num_threads(args.threads)
    net = NETS[args.net]
    x = np.random.default_rng(1).standard_normal((args.batch, *net.input_shape), dtype=np.float32)
    profile = build(net).profile(x)
    print(f"{net.name}, {args.threads} threads, {rr.cpu_info()['isa']}, peak {profile.peak:.0f} GFLOP/s")
    if args.top:
        profile = Profile(sorted(profile, key=lambda layer: -layer["milliseconds"])[: args.top], profile.peak)
    print(profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())

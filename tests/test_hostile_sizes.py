"""Numbers that nobody means: a result or one line of error, never a crash, a hang, or memory that is not needed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from resnet_rs import _core, runtime
from resnet_rs import functional as F

Array = NDArray[np.float32]
FAR = 2**24 - 1


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def test_dilation_and_padding_whose_padded_copy_cannot_be_counted() -> None:
    y = F.conv(ones(1, 1, 1, 65536), ones(1, 65536, 2, 2), dilation=FAR, padding=((FAR, 0), (FAR, 0)))
    np.testing.assert_array_equal(y, np.full((1, 1, 1, 1), 65536))


def test_windows_that_reach_far_over_the_border() -> None:
    y = F.conv(ones(1, 4, 4, 16), ones(16, 16, 3, 3), dilation=100_000, padding=100_000)
    np.testing.assert_array_equal(y, np.full((1, 4, 4, 16), 16))
    y = F.conv(ones(1, 4, 4, 16), ones(16, 16, 3, 3), stride=2**20, padding=2**20)
    want = np.zeros((1, 3, 3, 16))
    want[:, 1, 1] = 9 * 16
    np.testing.assert_array_equal(y, want)
    y = F.conv(ones(1, 2, 2, 2, 4), ones(4, 1, 3, 3, 3), dilation=10**7, padding=10**7, groups=4)
    np.testing.assert_array_equal(y, ones(1, 2, 2, 2, 4))


def test_a_kernel_of_a_million_taps_on_four_pixels() -> None:
    y = F.conv(ones(1, 1, 4, 1), ones(1, 1, 1, 10**6), padding=(0, 10**6))
    assert y.shape == (1, 1, 10**6 + 5, 1)
    np.testing.assert_array_equal(np.unique(y), [0, 1, 2, 3, 4])


def test_a_transposed_convolution_with_wide_gaps() -> None:
    bias = np.arange(4, dtype=np.float32)
    y = F.conv_transpose(ones(1, 2, 2, 4), ones(4, 4, 2, 2), bias, stride=2000)
    want = np.broadcast_to(bias, (1, 2002, 2002, 4)).copy()
    for h in (0, 1, 2000, 2001):
        want[:, h, [0, 1, 2000, 2001]] += 4
    np.testing.assert_array_equal(y, want)


def test_gaps_hold_the_bias_whatever_the_input_is() -> None:
    x = np.full((1, 2, 2, 4), np.inf, np.float32)
    y = F.conv_transpose(x, ones(4, 4, 1, 1), np.zeros(4, np.float32), stride=2)
    assert np.isinf(y[:, ::2, ::2]).all()
    np.testing.assert_array_equal(y[:, 1::2], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems work otherwise")
@pytest.mark.parametrize(
    "call",
    [
        "F.conv(np.ones((1, 4096, 4096, 1), np.float32), np.ones((32, 1, 3, 3), np.float32), padding=1)",
        "F.upsample(np.ones((1, 4096, 4096, 1), np.float32), 8)",
    ],
)
def test_memory_that_the_system_refuses_is_an_error(call: str) -> None:
    code = f"""
import resource
import numpy as np
import resnet_rs as rr
from resnet_rs import functional as F
rr.set_num_threads(1)
used = 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
try:
    {call}
except rr.MemoryLimitError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert "GB" in done.stdout and len(done.stdout.splitlines()) == 1, done.stdout


def test_scratch_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(runtime, "require_memory", lambda needed, what: asked.append(needed))
    y = F.upsample(ones(1, 1200, 1200, 4), 2)
    # The result, and the arena from which it is copied.
    assert asked and asked[-1] >= 2 * y.nbytes


def test_a_run_is_refused_before_it_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    y_bytes = 4 * 2400 * 2400 * 4
    monkeypatch.setattr(runtime, "available_memory", lambda: y_bytes + 2**20)
    with pytest.raises(rr.MemoryLimitError, match="available"):
        F.upsample(ones(1, 1200, 1200, 4), 2)


def test_a_variance_of_zero_without_epsilon_is_nan_as_in_keras() -> None:
    x = np.array([[1, 2, 5], [3, 4, 6]], np.float32)
    y = F.batch_norm(x, [1, 0, 0], [0, 1, 0], epsilon=0.0)
    nan = np.nan  # keras.layers.BatchNormalization(epsilon=0.0), Keras 3.15
    np.testing.assert_array_equal(y, [[nan, 2, nan], [nan, 4, nan]])


def test_a_batch_that_cannot_be_counted() -> None:
    network = _core.Network([("input", "input", [], {"channels": 4})])
    with pytest.raises(rr.MemoryLimitError, match="input: an activation"):
        network.infer((2**62, 1, 1, 1, 4))


def test_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(rr.ArgumentError, match="64 bits"):
        _core.Network([("input", "input", [], {"channels": 2**63})])
    with pytest.raises(rr.ArgumentError):
        F.conv(ones(1, 4, 4, 4), ones(4, 4, 3, 3), padding="same", dilation=2**63 - 1)

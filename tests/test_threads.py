"""Threads, processes and instruction sets: the same bits, in children too, from many callers at once."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from resnet_rs import _core

Array = NDArray[np.float32]


@pytest.fixture
def default_threads() -> Iterator[None]:
    yield
    _core.set_num_threads(None)


@pytest.fixture(scope="module")
def model() -> rr.models.ResNet18:
    return rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=10)


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_same_bits_for_any_number_of_threads(
    model: rr.models.ResNet18, images: Array, isa: str, default_threads: None
) -> None:
    _core.set_isa(isa)
    try:
        results = []
        for threads in (1, 2, 3, 8):
            rr.set_num_threads(threads)
            results.append(model.predict(images))
    finally:
        _core.set_isa(None)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("isa", _core.available_isas())
def test_same_bits_in_any_batch(model: rr.models.ResNet18, images: Array, isa: str) -> None:
    _core.set_isa(isa)
    try:
        together = model.predict(images, batch_size=3)
        alone = model.predict(images, batch_size=1)
    finally:
        _core.set_isa(None)
    np.testing.assert_array_equal(together, alone)


def test_num_threads_is_restored(default_threads: None) -> None:
    rr.set_num_threads(3)
    with rr.num_threads(2):
        assert _core.get_num_threads() == 2
    assert _core.get_num_threads() == 3


@pytest.mark.parametrize("threads", [0, -1, 10**9])
def test_absurd_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(rr.ArgumentError, match="threads"):
        rr.set_num_threads(threads)


def _predict_in_child(model: rr.models.ResNet18, images: Array, queue: multiprocessing.Queue[Array]) -> None:
    queue.put(model.predict(images))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_too(model: rr.models.ResNet18, images: Array) -> None:
    expected = model.predict(images)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_predict_in_child, args=(model, images, queue))
    child.start()
    got = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(got, expected)


def test_many_python_threads_at_once(model: rr.models.ResNet18, images: Array) -> None:
    expected = model.predict(images)
    with ThreadPoolExecutor(6) as executor:
        for got in executor.map(lambda _: model.predict(images), range(12)):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "value"), [("RESNET_RS_ISA", "avx1024"), ("RESNET_RS_NUM_THREADS", "zero"), ("RESNET_RS_NUM_THREADS", "0")]
)
def test_wrong_environment_is_refused_by_name(name: str, value: str) -> None:
    code = "import resnet_rs; print(resnet_rs.cpu_info())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, name: value}, capture_output=True, text=True)
    assert done.returncode != 0
    assert name in done.stderr.splitlines()[-1] and value in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("isa", _core.available_isas())
def test_environment_chooses(isa: str) -> None:
    code = "from resnet_rs import _core; print(_core.get_isa(), _core.get_num_threads())"
    environment = {**os.environ, "RESNET_RS_ISA": isa, "RESNET_RS_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [isa, "3"]

"""Threads, processes and instruction sets: the same bits, in children too, from many callers at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
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


_BUSY_FORKS = """
import os, signal, sys, threading
import numpy as np
import resnet_rs as rr
from resnet_rs import _core

model = rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=10)
image = np.ones((1, 32, 32, 3), np.float32)
expected = model.predict(image)
row = [("input", "input", [], {"channels": 64}), ("dense", "dense", [0], {"units": 4096, "bias": False})]
network = _core.Network(row)
weight = np.ones((4096, 64), np.float32)
vector = np.ones((1, 1, 1, 1, 64), np.float32)
done = threading.Event()

def plan():
    while not done.is_set():
        network.set("dense.weight", weight)
        network.run([vector], [1])

def predict():
    while not done.is_set():
        model.predict(image)

threads = [threading.Thread(target=plan), threading.Thread(target=plan), threading.Thread(target=predict)]
for thread in threads:
    thread.start()
wrong = 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        same = np.array_equal(model.predict(image), expected)
        network.set("dense.weight", weight)
        same = same and (network.run([vector], [1])[0] == 64).all() and os.waitpid(again, 0)[1] == 0 \
            if (again := os.fork()) else os._exit(0)
        os._exit(not same)
    wrong += os.waitpid(child, 0)[1] != 0
done.set()
for thread in threads:
    thread.join()
sys.exit(wrong)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forks_while_other_threads_plan_and_run() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _BUSY_FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this platform")
def test_signals_are_handled_during_a_run() -> None:
    widths = [{"filters": 256, "bias": False, "groups": 1, "stride": [1] * 3, "dilation": [1] * 3}] * 30
    window = {"kernel": [1, 3, 3], "padding": [[0, 0], [1, 1], [1, 1]]}
    rows: list[tuple[str, str, list[int], dict[str, object]]] = [("input", "input", [], {"channels": 256})]
    rows += [(f"conv{i}", "conv", [i], {**width, **window}) for i, width in enumerate(widths)]
    network = _core.Network(rows)
    x = np.zeros((2, 1, 64, 64, 256), np.float32)
    network.run([x], [30])
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        network.run([x], [30])
        during = len(calls)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Were they handled after the run only, the signals of all of it would be one.
    assert during > 1


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt("stop")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this platform")
def test_a_run_is_interrupted_and_the_next_one_works(model: rr.models.ResNet18, images: Array) -> None:
    expected = model.predict(images)
    many = np.concatenate([images] * 60)
    before = signal.signal(signal.SIGALRM, _raise_interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            model.predict(many, batch_size=len(many))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(model.predict(images), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems work otherwise")
def test_threads_that_cannot_be_started_are_done_without() -> None:
    code = """
import os
import resource
import numpy as np
import resnet_rs as rr
from resnet_rs import functional as F
x = np.arange(4 * 64 * 64 * 16, dtype=np.float32).reshape(4, 64, 64, 16)
weight = np.ones((16, 16, 3, 3), np.float32)
rr.set_num_threads(1)
expected = F.conv(x, weight, padding=1)
if os.getuid() == 0:
    os.setuid(65534)  # root may start as many as it likes
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
rr.set_num_threads(1024)
assert np.array_equal(F.conv(x, weight, padding=1), expected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_others_run_while_a_thread_waits_for_a_network() -> None:
    network = _core.Network(
        [("input", "input", [], {"channels": 2048}), ("dense", "dense", [0], {"units": 8192, "bias": False})]
    )
    weight, x = np.ones((8192, 2048), np.float32), np.ones((1, 1, 1, 1, 2048), np.float32)
    ticks, meanwhile = [0], list[int]()

    def plan() -> None:
        for _ in range(10):
            network.set("dense.weight", weight)
            network.run([x], [1])

    def wait() -> None:
        while not planned.done():
            before = ticks[0]
            network.parameters()
            meanwhile.append(ticks[0] - before)

    with ThreadPoolExecutor(2) as executor:
        planned = executor.submit(plan)
        waited = executor.submit(wait)
        while not waited.done():
            ticks[0] += 1
            time.sleep(0.0005)
        planned.result()
        waited.result()
    # While a plan is made; a wait that holds the lock of the interpreter sees a handful at most.
    assert max(meanwhile) > 15


def test_many_python_threads_at_once(model: rr.models.ResNet18, images: Array) -> None:
    expected = model.predict(images)
    with ThreadPoolExecutor(6) as executor:
        for got in executor.map(lambda _: model.predict(images), range(12)):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "value"), [("RESNET_RS_ISA", "avx1024"), ("RESNET_RS_NUM_THREADS", "zero"), ("RESNET_RS_NUM_THREADS", "0")]
)
def test_wrong_environment_is_refused_by_name(name: str, value: str) -> None:
    code = """
import resnet_rs
try:
    resnet_rs.cpu_info()
except resnet_rs.ArgumentError as error:
    print(error)
"""
    environment = {**os.environ, name: value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf'{name}: .*expected .*, got "{value}"\n', done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize("isa", _core.available_isas())
def test_environment_chooses(isa: str) -> None:
    code = "from resnet_rs import _core; print(_core.get_isa(), _core.get_num_threads())"
    environment = {**os.environ, "RESNET_RS_ISA": isa, "RESNET_RS_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [isa, "3"]

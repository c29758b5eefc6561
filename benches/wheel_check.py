"""Install a wheel into an empty environment and use it there; check its size and its import time.

    make wheel-check
    python benches/wheel_check.py dist/resnet_rs-*.whl

Needs nothing but CPython with venv. The import time is the median of interleaved runs, above that of NumPy alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

SIZE_LIMIT = 5 * 10**6
IMPORT_LIMIT_MS = 15.0

USE = """
import sys
import numpy as np
import resnet_rs as rr

model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=10)
x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
y = model.predict(x)
assert y.shape == (2, 10) and np.allclose(y.sum(axis=1), 1, atol=1e-5), y
volume = rr.models.ResNet18(input_shape=(32, 32, 32, 1), num_classes=3)
assert volume.predict(np.zeros((1, 32, 32, 32, 1), np.float32)).shape == (1, 3)
rr.save(model, "model.safetensors")
assert np.array_equal(rr.load("model.safetensors").predict(x), y)
"""

USE_SHIPPED = """
import numpy as np
import resnet_rs as rr
from resnet_rs.models.shipped import SHIPPED

for weights, kinds in SHIPPED.items():
    for kind in kinds:
        model = rr.create_model(kind, weights=weights)
        scores = model.predict(np.zeros((1, *model.input_shape[1:]), np.float32))
        assert scores.shape == (1, len(model.classes)) and np.isclose(scores.sum(), 1, atol=1e-5), scores
        print(f"{kind.lower()}: {'; '.join(model.notes)}")
"""


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[:4])} ... failed\n{done.stdout}{done.stderr}")
    return done.stdout


def import_milliseconds(python: str, folder: Path, name: str, rounds: int = 25) -> float:
    """Median over rounds of (NumPy and `name`) minus (NumPy alone), each in a fresh interpreter."""
    extra = []
    for _ in range(rounds):
        times = []
        for module in ("numpy", f"numpy, {name}"):
            start = time.perf_counter()
            run([python, "-c", f"import {module}"], folder)
            times.append(time.perf_counter() - start)
        extra.append(1e3 * (times[1] - times[0]))
    return statistics.median(extra)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--no-timing", action="store_true", help="skip the import time, on machines that are not quiet")
    args = parser.parse_args()
    wheel = args.wheel.resolve()
    failures = []

    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.2f} MB (limit {SIZE_LIMIT / 1e6:g})")
    if size > SIZE_LIMIT:
        failures.append("the wheel is too large")
    with zipfile.ZipFile(wheel) as archive:
        shipped = sum(
            file.file_size for file in archive.infolist() if file.filename.startswith("resnet_rs/pretrained/")
        )

    with tempfile.TemporaryDirectory(prefix="resnet_rs_wheel_") as temporary:
        folder = Path(temporary)
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        python, command = str(scripts / "python"), str(scripts / "resnet-rs")
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], folder)
        installed = run([python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"], folder)
        packages = {line.split("==")[0] for line in installed.split()} - {"pip", "setuptools", "wheel"}
        print(f"installed: {', '.join(sorted(packages))}")
        if packages != {"numpy", "resnet-rs"}:
            failures.append("NumPy must be the only thing that comes along")
        run([python, "-c", USE], folder)
        print("predicts in 2D and 3D, saves and loads")
        print(f"with shipped weights, {shipped / 1e6:.2f} MB: {run([python, '-c', USE_SHIPPED], folder).strip()}")
        for arguments in (["--version"], ["list"], ["doctor"], ["summary", "resnet18"]):
            run([command, *arguments], folder)
        print("the command line answers")
        if not args.no_timing:
            milliseconds = import_milliseconds(python, folder, "resnet_rs")
            print(f"import resnet_rs: {milliseconds:.1f} ms above NumPy (limit {IMPORT_LIMIT_MS:g})")
            # What is put off comes with the first model.
            print(f"import resnet_rs.models: {import_milliseconds(python, folder, 'resnet_rs.models'):.1f} ms")
            if milliseconds > IMPORT_LIMIT_MS:
                failures.append("the import takes too long")

    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

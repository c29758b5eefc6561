"""The rules of the house, held true by reading the code: who may import whom, and where the dangerous things live.

Every rule is a function from files to complaints, so that each is shown here to be able to fail.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Files = Mapping[str, str]  # path below the root -> text

# -- reading --------------------------------------------------------------------------------------


def read(pattern: str) -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob(pattern))}


RUST_NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|r(?P<hashes>\#*)".*?"(?P=hashes)|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'""", re.DOTALL
)


def rust_code(text: str, *, tests: bool = True) -> str:
    """The text with comments, strings and (with `tests=False`) the test module blanked; lines stay where they were."""
    code = RUST_NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    if not tests:
        start = re.search(r"#\[cfg\(test\)\]\s*(pub(\(\w+\))?\s+)?mod\s+\w+\s*\{", code)
        if start:
            code = code[: start.start()]
    return code


def find(code: str, pattern: str) -> Iterator[tuple[int, re.Match[str]]]:
    for match in re.finditer(pattern, code):
        yield code.count("\n", 0, match.start()) + 1, match


def only_in(files: Files, pattern: str, homes: str, what: str) -> list[str]:
    """Complaints about every place outside `homes` (a pattern of paths) where `pattern` occurs in code."""
    return [
        f"{path}:{line}: {what} belongs in {homes}"
        for path, text in files.items()
        if not re.fullmatch(homes, path)
        for line, _ in find(rust_code(text), pattern)
    ]


# -- Rust -----------------------------------------------------------------------------------------

CORE = "rust/core/src/"

# A module may name those of a lower rank.
RUST_RANKS = {
    "error": 0,
    "shape": 1,
    "buffer": 1,
    "bell": 1,
    "fork": 1,
    "simd": 1,
    "rng": 1,
    "parallel": 2,
    "window": 2,
    "pieces": 3,
    "peak": 3,
    "gemm": 3,
    "ops": 4,
    "params": 5,
    "optim": 5,
    "losses": 5,
    "augment": 5,
    "graph": 6,
    "lib": 7,
}


def rust_imports(path: str, code: str) -> Iterator[tuple[int, str]]:
    """(line, top-level module of the crate) for everything that the file names by `crate::` or by `super::`."""
    parts = path.removeprefix(CORE).removesuffix(".rs").removesuffix("/mod").split("/")
    for line, match in find(code, r"\bcrate::(?:\{(?P<group>[^;]*?)\}\s*;|(?P<name>\w+))"):
        if match["name"]:
            yield line, match["name"]
        else:
            # The top level of `crate::{shape::{Dims3, Shape}, simd}`.
            flat = match["group"]
            while "{" in flat:
                flat = re.sub(r"\{[^{}]*\}", "", flat)
            yield from ((line, entry.strip().split("::")[0]) for entry in flat.split(",") if entry.strip())
    for line, match in find(code, r"\b(?P<supers>(?:super::)+)(?P<name>\w+)"):
        if match["supers"].count("super") >= len(parts):
            yield line, match["name"]


def modules_for_tests(files: Files) -> set[str]:
    """Paths of the modules that are declared for tests only: `#[cfg(test)] mod name;`."""
    return {
        f"{folder}/{match[1]}{end}"
        for path, text in files.items()
        # Modules of mod.rs are beside it, those of any other file in the folder of its name.
        for folder in (path.rpartition("/")[0], path.removesuffix(".rs"))
        for _, match in find(rust_code(text), r"#\[cfg\(test\)\]\s*(?:pub(?:\(\w+\))?\s+)?mod\s+(\w+)\s*;")
        for end in (".rs", "/mod.rs")
    }


def rust_layers(files: Files) -> list[str]:
    complaints = []
    exempt = modules_for_tests(files)
    for path, text in files.items():
        if not path.startswith(CORE) or path in exempt:
            continue
        module = path.removeprefix(CORE).split("/")[0].removesuffix(".rs")
        if module not in RUST_RANKS:
            complaints.append(f"{path}:1: module {module!r} has no place in RUST_RANKS")
            continue
        for line, name in rust_imports(path, rust_code(text, tests=False)):
            if name == module or (name not in RUST_RANKS and name != "testing"):
                continue
            if name == "testing" or RUST_RANKS[name] >= RUST_RANKS[module]:
                complaints.append(f"{path}:{line}: {module} must not import {name}")
    return complaints


def rayon_in_parallel(files: Files) -> list[str]:
    return only_in(files, r"\brayon\b", rf"{CORE}parallel\.rs", "rayon")


def pyo3_in_bindings(files: Files) -> list[str]:
    return only_in(files, r"\bpyo3\b", r"rust/bindings/.*", "pyo3")


def numpy_in_array(files: Files) -> list[str]:
    return only_in(files, r"\bnumpy::|\bextern crate numpy\b", r"rust/bindings/src/array\.rs", "numpy")


def features_in_dispatch(files: Files) -> list[str]:
    pattern = r"\btarget_feature\s*\(|\bis_\w+_feature_detected\b|\b__cpuid\w*"
    return only_in(files, pattern, rf"{CORE}simd/dispatch\.rs", "CPU detection")


def intrinsics_in_simd(files: Files) -> list[str]:
    return only_in(files, r"\b(?:core|std)::arch::(?:x86|aarch|arm|\{|\*)", rf"{CORE}simd/.*", "vector intrinsics")


def unsafe_at_home(files: Files) -> list[str]:
    homes = rf"{CORE}(?:(?:simd|gemm|ops)/.*|parallel\.rs|buffer\.rs)|rust/bindings/src/array\.rs"
    return only_in(files, r"\bunsafe\b", homes, "unsafe")


def lints_stay_on(files: Files) -> list[str]:
    """Clippy asks for a SAFETY line on each unsafe block and for few arguments; nobody may tell it not to."""
    pattern = r"(?:allow|expect)\s*\([^)]*(?:undocumented_unsafe_blocks|too_many_arguments|unsafe_op_in_unsafe_fn)"
    return only_in(files, pattern, "nowhere", "an exception to this lint")


RUST_RULES = {
    rust_layers: {
        f"{CORE}window.rs": "use crate::ops::Op;",
        f"{CORE}simd/avx2.rs": "use super::super::graph::Plan;",
        f"{CORE}ops/conv/direct.rs": "use crate::{shape::{Dims3, Shape}, graph::plan};",
        f"{CORE}ops/add.rs": "use crate::testing::random;",
        f"{CORE}helpers.rs": "",
    },
    rayon_in_parallel: {f"{CORE}ops/add.rs": "use rayon::prelude::*;"},
    pyo3_in_bindings: {f"{CORE}error.rs": "use pyo3::PyErr;"},
    numpy_in_array: {"rust/bindings/src/lib.rs": "use numpy::PyArray;"},
    features_in_dispatch: {
        f"{CORE}gemm/mod.rs": '#[target_feature(enable = "avx2")]',
        f"{CORE}simd/avx2.rs": 'is_x86_feature_detected!("fma")',
    },
    intrinsics_in_simd: {f"{CORE}ops/add.rs": "use std::arch::x86_64::*;"},
    unsafe_at_home: {f"{CORE}graph/exec.rs": "// SAFETY: none\nunsafe { f() }"},
    lints_stay_on: {f"{CORE}ops/add.rs": "#[allow(dead_code, clippy::too_many_arguments)]"},
}


@pytest.mark.parametrize("rule", RUST_RULES, ids=lambda rule: rule.__name__)
def test_rust_rule_holds(rule) -> None:
    files = read("rust/**/*.rs")
    assert len(files) > 5
    assert rule(files) == []


@pytest.mark.parametrize("rule", RUST_RULES, ids=lambda rule: rule.__name__)
def test_rust_rule_can_fail(rule) -> None:
    for path, text in RUST_RULES[rule].items():
        assert rule({path: text}), f"{path} should have been refused: {text}"


def test_rust_rules_ignore_comments_strings_and_tests() -> None:
    text = """
// rayon, pyo3 and unsafe { } are only talked about, use crate::graph::Plan;
const MESSAGE: &str = "rayon unsafe { } std::arch";
/* is_x86_feature_detected!("fma") */
#[cfg(test)]
mod tests {
    use crate::graph::Plan;
}
"""
    for rule in RUST_RULES:
        assert rule({f"{CORE}ops/add.rs": text}) == []


def test_manifests_of_the_crates() -> None:
    core = (ROOT / "rust/core/Cargo.toml").read_text()
    assert not re.search(r"^\s*(pyo3|numpy)\b", core, re.MULTILINE)
    bindings = (ROOT / "rust/bindings/Cargo.toml").read_text()
    workspace = (ROOT / "Cargo.toml").read_text()
    for lint in ("undocumented_unsafe_blocks", "too_many_arguments", "unsafe_op_in_unsafe_fn"):
        assert f'{lint} = "deny"' in workspace
    for manifest in (core, bindings):
        assert "[lints]\nworkspace = true" in manifest
    assert not re.search(r"^\s*rayon\b", bindings, re.MULTILINE)


# -- the built extension ----------------------------------------------------------------------------


def calls_of_intrinsics(symbols: str) -> list[str]:
    """Vector intrinsics that the build kept as functions: somewhere a kernel lost its target features.

    CPUID is asked by the standard library's feature detection, out of line and rightly so.
    """
    names = {line.split()[-1] for line in symbols.splitlines() if "core_arch" in line}
    return sorted(name for name in names if "cpuid" not in name and "xgetbv" not in name and "xsave" not in name)


def test_intrinsics_are_inlined() -> None:
    from resnet_rs import _core

    nm = shutil.which("nm")
    if nm is None or sys.platform != "linux":
        pytest.skip("needs nm on Linux")
    symbols = subprocess.run([nm, _core.__file__], capture_output=True, text=True, check=True).stdout
    if "resnet_core" not in symbols:
        pytest.skip("the extension is stripped: build it with `make build`")
    assert calls_of_intrinsics(symbols) == []


def test_calls_of_intrinsics_can_be_found() -> None:
    lost = "0000000000012340 t _ZN4core9core_arch3x867avx512f15_mm512_fmadd_ps17h0123456789abcdefE"
    fine = "0000000000012340 t _ZN4core9core_arch3x865cpuid13__cpuid_count17h0123456789abcdefE"
    assert calls_of_intrinsics(f"{fine}\n{lost}\n") == [lost.split()[-1]]


# -- Python ---------------------------------------------------------------------------------------

PACKAGE = "python/resnet_rs/"

# A module may import those of a lower rank: models -> blocks -> graph -> _core.
PYTHON_RANKS = {
    "_core": 0,
    "_table": 0,
    "describe": 4,
    "described": 4,
    "profile": 1,
    "errors": 0,
    "checks": 1,
    "initializers": 1,
    "arrays": 2,
    "config": 2,
    "graph": 2,
    "window": 1,
    "runtime": 2,
    "images": 3,
    "weights": 3,
    "blocks": 3,
    "layers": 3,
    "one_node": 3,
    "functional": 4,
    "summary": 3,
    "symbolic": 1,
    "parameters": 4,
    "training": 5,
    "model": 6,
    "doctor": 7,
    "models": 7,
    "nn": 8,
    "__init__": 8,
    "cli": 9,
    "__main__": 10,
}


def python_imports(path: str, text: str) -> Iterator[tuple[int, str, bool]]:
    """(line, absolute dotted name, whether at import time), without what only a type checker sees."""
    package = path.removesuffix(".py").removeprefix("python/").split("/")[:-1]

    def walk(nodes: list[ast.stmt], top: bool) -> Iterator[tuple[int, str, bool]]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, top) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = [*base, *([node.module] if node.module else [])]
                yield from ((node.lineno, ".".join([*module, alias.name]), top) for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.orelse, top)
            else:
                inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                for field in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, field, []), inner)
                for handler in getattr(node, "handlers", []):
                    yield from walk(handler.body, inner)
                for case in getattr(node, "cases", []):
                    yield from walk(case.body, inner)

    yield from walk(ast.parse(text).body, True)


def python_layers(files: Files) -> list[str]:
    complaints = []
    for path, text in files.items():
        module = path.removeprefix(PACKAGE).split("/")[0].removesuffix(".py")
        if module not in PYTHON_RANKS:
            complaints.append(f"{path}:1: module {module!r} has no place in PYTHON_RANKS")
            continue
        for line, name, _ in python_imports(path, text):
            root, _, rest = name.partition(".")
            if root != "resnet_rs" or rest == "__version__":
                continue
            target = rest.split(".")[0]
            # `from resnet_rs import x` names a module or one of the package's own exports.
            target = target if target in PYTHON_RANKS else "__init__"
            if target != module and PYTHON_RANKS[target] >= PYTHON_RANKS[module]:
                complaints.append(f"{path}:{line}: {module} must not import {target}")
    return complaints


def light_imports(files: Files) -> list[str]:
    """Only the standard library and NumPy are imported with a module; everything else where it is used."""
    allowed = {*sys.stdlib_module_names, "numpy", "resnet_rs"}
    return [
        f"{path}:{line}: import {name} where it is used, not with the module"
        for path, text in files.items()
        for line, name, top in python_imports(path, text)
        if top and name.split(".")[0] not in allowed
    ]


def core_through_few(files: Files) -> list[str]:
    """What the user sees talks to the engine through the model and the functional calls only."""
    closed = ("blocks", "models", "images")
    return [
        f"{path}:{line}: {path.removeprefix(PACKAGE)} must not use _core directly"
        for path, text in files.items()
        if path.removeprefix(PACKAGE).split("/")[0].removesuffix(".py") in closed
        for line, name, _ in python_imports(path, text)
        if name.startswith("resnet_rs._core")
    ]


PYTHON_RULES = {
    python_layers: {
        f"{PACKAGE}graph.py": "from .blocks import residual",
        f"{PACKAGE}blocks.py": "def f():\n    from . import models",
        f"{PACKAGE}weights/pickle.py": "from ..model import Model",
        f"{PACKAGE}models/resnet.py": "import resnet_rs",
        f"{PACKAGE}errors.py": "from resnet_rs.graph import Builder",
        f"{PACKAGE}utils.py": "",
    },
    light_imports: {
        f"{PACKAGE}images.py": "from PIL import Image",
        f"{PACKAGE}cli.py": "try:\n    import rich\nexcept ImportError:\n    rich = None",
    },
    core_through_few: {f"{PACKAGE}models/resnet.py": "from .._core import Network"},
}


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python_rule_holds(rule) -> None:
    files = read("python/resnet_rs/**/*.py")
    assert len(files) > 5
    assert rule(files) == []


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python_rule_can_fail(rule) -> None:
    for path, text in PYTHON_RULES[rule].items():
        assert rule({path: text}), f"{path} should have been refused: {text}"


def test_python_rules_allow_the_right_way() -> None:
    text = """
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
from .graph import Builder
if TYPE_CHECKING:
    from PIL import Image
    from .model import Model
def f():
    import rich
"""
    for rule in PYTHON_RULES:
        assert rule({f"{PACKAGE}blocks.py": text}) == []


def test_import_loads_nothing_heavy() -> None:
    """`import resnet_rs` brings in the package and NumPy, not even the command line or the models."""
    code = "import numpy, sys; before = set(sys.modules); import resnet_rs; print(*(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = output.split()
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"numpy", "resnet_rs"}
    assert not foreign
    assert not {"argparse", "dataclasses", "json", "resnet_rs.cli"} & set(loaded)


# -- the house ------------------------------------------------------------------------------------


def test_top_level_is_fixed() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git work tree")
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    folders = {"rust", "python", "tests", "benches", "docs", "examples", ".ci", ".github"}
    manifests = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "Makefile", "rustfmt.toml", ".gitignore"}
    papers = {"README.md", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert {line.split("/")[0] for line in listing.splitlines()} <= folders | manifests | papers

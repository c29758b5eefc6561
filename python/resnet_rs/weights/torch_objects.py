"""What a checkpoint's pickle may mention: the allowlist, and the inert objects that stand for PyTorch's and NumPy's.

Nothing here touches the tensors' data: a pickle yields descriptions (`Tensor`, `PickledArray`), and only those that are
wanted are made into arrays later (`torch_file.py`). Constructors take constant time, or are charged for what they copy,
because a pickle may call them millions of times with the same arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from resnet_rs.weights.elements import ELEMENTS
from resnet_rs.weights.pickle_machine import Constructor, Inert, Machine
from resnet_rs.weights.source import quoted

__all__ = ["KNOWN", "ElementType", "PickledArray", "Storage", "Tensor", "storage_of"]


class ElementType(Inert):
    """`torch.float32` or `torch.FloatStorage`; `name` is a key of `ELEMENTS`."""

    __slots__ = ()


@dataclass(frozen=True)
class Storage:
    """`length` elements from element `start` of the stored bytes called `key`, which hold `total` elements."""

    key: str
    element: str
    total: int
    start: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides in elements. Sizes are non-negative, not yet checked further."""

    storage: Storage
    element: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class NumpyType:
    """A NumPy dtype: its code ("f4") and byte order."""

    code: str
    big_endian: bool = False

    def set_state(self, machine: Machine, state: object) -> None:
        """Take the byte order; the rest describes types that are refused."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise machine.refusal("a NumPy dtype with a strange state")
        self.big_endian = state[1] == ">"


@dataclass
class PickledArray:
    """A NumPy array or scalar whose bytes are inside the pickle."""

    shape: tuple[int, ...] = ()
    type: NumpyType = field(default_factory=lambda: NumpyType("f4"))
    raw: bytes = b""
    column_major: bool = False

    def set_state(self, machine: Machine, state: object) -> None:
        """Take (version, shape, dtype, Fortran order, bytes), as `ndarray.__reduce__` writes it."""
        match state:
            case (int(), tuple() as shape, NumpyType() as kind, bool() as column_major, bytes() as raw):
                self.shape, self.type, self.raw = sizes(machine, shape), kind, raw
                self.column_major = column_major
            case _:
                raise machine.refusal("a NumPy array that is not of numbers")


def sizes(machine: Machine, value: object) -> tuple[int, ...]:
    """Return `value` when it is a tuple of at most eight non-negative integers (sizes or strides)."""
    if isinstance(value, (tuple, list)) and len(value) <= 8:
        numbers = tuple(item for item in value if isinstance(item, int) and 0 <= item < 1 << 62)
        if len(numbers) == len(value):
            return numbers
    raise machine.refusal(f"{quoted(value)} as the size or strides of a tensor")


def storage_of(machine: Machine, identifier: object) -> Storage:
    """Turn PyTorch's persistent id into a `Storage`: ("storage", type, key, device, length[, view])."""
    match identifier:
        case ("storage", ElementType(name=element), str(key), _, int(total)) if total >= 0:
            return Storage(key, element, total, 0, total)
        case ("storage", ElementType(name=element), str(key), _, int(total), None) if total >= 0:
            return Storage(key, element, total, 0, total)
        case ("storage", ElementType(name=element), str(key), _, int(total), (_, int(start), int(length))):
            if start >= 0 and length >= 0 and start + length <= total:
                return Storage(key, element, total, start, length)
    if isinstance(identifier, tuple) and identifier and identifier[0] == "module":
        raise machine.bad("a state_dict", "a whole pickled model; save model.state_dict() instead")
    raise machine.refusal("a storage that is not described as PyTorch describes one")


def tensor(machine: Machine, arguments: tuple[object, ...]) -> Tensor:
    """`_rebuild_tensor` and `_v2`: (storage, offset, size, strides[, requires_grad, hooks, metadata])."""
    match arguments:
        case (Storage() as storage, int(offset), size, strides, *_) if 0 <= offset < 1 << 62:
            return Tensor(storage, storage.element, offset, sizes(machine, size), sizes(machine, strides))
    raise machine.refusal("a tensor that is not described as PyTorch describes one")


def tensor_v3(machine: Machine, arguments: tuple[object, ...]) -> Tensor:
    """As `tensor`, with the element type as the seventh argument and an untyped storage."""
    if len(arguments) < 7 or not isinstance(arguments[6], ElementType):
        raise machine.refusal("a tensor that is not described as PyTorch describes one")
    made = tensor(machine, arguments)
    return Tensor(made.storage, arguments[6].name, made.offset, made.shape, made.strides)


def first(machine: Machine, arguments: tuple[object, ...]) -> object:
    """Stand for what wraps its first argument: `Parameter`, `torch.Size`, `set`, ..."""
    return arguments[0] if arguments else ()


def from_type(machine: Machine, arguments: tuple[object, ...]) -> object:
    """`_rebuild_from_type_v2`: (constructor, subclass of Tensor, its arguments, attributes)."""
    match arguments:
        case (Constructor() as function, _, tuple() as inner, *_) if function.make is not from_type:
            return machine.call(function, inner)
    raise machine.refusal("a tensor that is not described as PyTorch describes one")


def ordered(machine: Machine, arguments: tuple[object, ...]) -> dict[object, object]:
    """`OrderedDict()`, and with the list of pairs that Python 2 wrote."""
    made: dict[object, object] = {}
    pairs = arguments[0] if arguments else ()
    if isinstance(pairs, (list, tuple)):
        machine.charge(len(pairs))
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise machine.refusal("a dictionary that is not made of pairs")
            machine.update(made, list(pair))
    return made


def empty(machine: Machine, arguments: tuple[object, ...]) -> dict[object, object]:
    """A mapping whose arguments do not matter: the items follow."""
    return {}


def sequence(machine: Machine, arguments: tuple[object, ...]) -> object:
    """`set`, `frozenset`, `list`, `deque`: the list that it is made of, which need not be copied."""
    return arguments[0] if arguments else []


def encode(machine: Machine, arguments: tuple[object, ...]) -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes."""
    match arguments:
        case (str(text), str(encoding)) if encoding in ("latin1", "latin-1"):
            machine.charge(1 + len(text) // 64)
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                raise machine.refusal("bytes that are no bytes") from None
    raise machine.refusal("text in another encoding than latin-1")


def numpy_type(machine: Machine, arguments: tuple[object, ...]) -> NumpyType:
    """`numpy.dtype(code, align, copy)` of plain numbers."""
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or code.lstrip("<>=|") not in NUMPY_CODES:
        raise machine.refusal(f"a NumPy dtype that is not of plain numbers: {quoted(code)}")
    return NumpyType(code.lstrip("<>=|"), code.startswith(">"))


def numpy_scalar(machine: Machine, arguments: tuple[object, ...]) -> PickledArray:
    """`numpy.core.multiarray.scalar(dtype, bytes)`."""
    match arguments:
        case (NumpyType() as kind, bytes() as raw):
            return PickledArray((), kind, raw)
    raise machine.refusal("a NumPy scalar that is not a number")


def numpy_array(machine: Machine, arguments: tuple[object, ...]) -> PickledArray:
    """`numpy.core.multiarray._reconstruct(...)`: an empty array; its state follows."""
    return PickledArray()


def numpy_buffer(machine: Machine, arguments: tuple[object, ...]) -> PickledArray:
    """`numpy.core.numeric._frombuffer(bytes, dtype, shape, order)`, of protocol 5."""
    match arguments:
        case (bytes() as raw, NumpyType() as kind, tuple() as shape, ("C" | "F") as order):
            return PickledArray(sizes(machine, shape), kind, raw, order == "F")
    raise machine.refusal("a NumPy array that is not of numbers")


NUMPY_CODES = {"f8": "float64", "f4": "float32", "f2": "float16", "b1": "bool"} | {
    f"{kind}{size}": f"{prefix}int{8 * size}" for kind, prefix in (("i", ""), ("u", "u")) for size in (1, 2, 4, 8)
}

STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}

ALIASES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}

CONSTRUCTORS = {
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
    ("torch._utils", "_rebuild_parameter"): first,
    ("torch._utils", "_rebuild_parameter_with_state"): first,
    ("torch._tensor", "_rebuild_from_type_v2"): from_type,
    ("torch.nn.parameter", "Parameter"): first,
    ("torch", "Size"): first,
    ("collections", "OrderedDict"): ordered,
    ("collections", "defaultdict"): empty,
    ("collections", "Counter"): empty,
    ("collections", "deque"): sequence,
    ("_codecs", "encode"): encode,
}

# Lightning writes its hyper-parameters so; they are dictionaries.
MAPPINGS = [
    (f"{package}.{module}", "AttributeDict")
    for package in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric")
    for module in ("utilities.parsing", "utilities.data")
]

# Settings and dates that training scripts leave beside the weights: accepted, never looked into.
IGNORED = [
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("datetime", "datetime"),
    ("datetime", "date"),
    ("datetime", "timedelta"),
    ("torch", "device"),
    ("torch.torch_version", "TorchVersion"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath")),
]

# The allowlist: every global that a file may name, and what stands for it.
KNOWN: dict[tuple[str, str], object] = {
    **{(module, name): Constructor(name, make) for (module, name), make in CONSTRUCTORS.items()},
    **{(module, name): Constructor(name, empty) for module, name in MAPPINGS},
    **{(module, name): Inert(name) for module, name in IGNORED},
    **{("torch", f"{name}Storage"): ElementType(element) for name, element in STORAGES.items()},
    ("torch", "UntypedStorage"): ElementType("uint8"),
    ("torch.storage", "UntypedStorage"): ElementType("uint8"),
    **{("torch", element): ElementType(element) for element in ELEMENTS},
    **{("torch", alias): ElementType(element) for alias, element in ALIASES.items()},
    **{
        (module, name): Constructor(name, sequence)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "list", "bytearray", "tuple")
    },
    **{(module, "dict"): Constructor("dict", empty) for module in ("builtins", "__builtin__")},
    **{(module, "complex"): Inert("complex") for module in ("builtins", "__builtin__")},
    ("numpy", "dtype"): Constructor("dtype", numpy_type),
    ("numpy", "ndarray"): Inert("ndarray"),
    **{
        (f"{package}.{module}", name): Constructor(name, make)
        for package in ("numpy.core", "numpy._core")
        for module, name, make in (
            ("multiarray", "scalar", numpy_scalar),
            ("multiarray", "_reconstruct", numpy_array),
            ("numeric", "_frombuffer", numpy_buffer),
        )
    },
}

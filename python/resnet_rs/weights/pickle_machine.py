"""A reader of pickles that runs nothing: it builds plain containers and calls only the constructors it was given.

The standard `pickle.Unpickler` with a guarded `find_class` would not do: a file can make it reserve gigabytes (memo
slots, lengths that it trusts), overflow the C stack (hashing nested tuples) or compute for hours (a tuple of a tuple
of ... as a key). Here every opcode costs one unit of a fixed budget, every length is checked against the end of the
file before anything is read, and only plain values can be keys, so time and memory are bounded by the file's size.

Understood are the binary opcodes of protocols 2 to 5, which is what PyTorch, NumPy and pickle itself write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

from resnet_rs.errors import FileFormatError
from resnet_rs.weights.source import quoted

__all__ = ["Constructor", "Inert", "Machine"]

# Sixty opcodes describe one tensor; with an optimiser's state this is enough for ten thousand of them.
OPERATIONS = 2_000_000
# Longer integers are no sizes, and keys below this cannot be made to collide (hash(n) == n).
LONGEST_INT = 64
LARGEST_KEY = 1 << 60


class Inert:
    """What stands for an object or class that is not wanted: it has a name and does nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Constructor(Inert):
    """A global that a pickle may call; `make` gets the machine and the arguments, whose kind and number it checks."""

    __slots__ = ("make",)

    def __init__(self, name: str, make: Callable[[Machine, tuple[object, ...]], object]) -> None:
        super().__init__(name)
        self.make = make


class Machine:
    """Runs one pickle after another from `file`, never reading beyond the byte `stop`.

    `known` maps (module, name) to what stands for that global; any other global raises `FileFormatError`.
    `persistent` turns a persistent id (PyTorch: the description of a storage) into an object.
    `bad(expected, got)` makes the exception.

    >>> import io, pickle
    >>> data = pickle.dumps({"a": [1, 2.5, None]}, protocol=4)
    >>> Machine(io.BytesIO(data), len(data), {}, repr, lambda e, g: FileFormatError(f"expected {e}, got {g}")).load()
    {'a': [1, 2.5, None]}
    """

    def __init__(
        self,
        file: BinaryIO,
        stop: int,
        known: Mapping[tuple[str, str], object],
        persistent: Callable[[object], object],
        bad: Callable[[str, str], FileFormatError],
    ) -> None:
        self.file, self.known, self.persistent, self.bad = file, known, persistent, bad
        self.left = stop - file.tell()
        self.budget = OPERATIONS
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def load(self) -> object:
        """Run one pickle up to its STOP and return what it made."""
        self.stack, self.marks, self.memo = [], [], {}
        try:
            while True:
                self.charge(1)
                opcode = self.take(1)[0]
                if opcode == STOP:
                    return self.stack.pop()
                action = ACTIONS.get(opcode)
                if action is None:
                    raise self.bad("a pickle of protocol 2 to 5", f"the opcode {opcode:#04x}")
                action(self)
        except (IndexError, KeyError):
            raise self.bad("a well-formed pickle", "an opcode that finds its operands missing") from None
        except (UnicodeDecodeError, struct.error) as error:
            raise self.bad("a well-formed pickle", str(error)) from None

    def charge(self, cost: int) -> None:
        """Take `cost` from the budget."""
        self.budget -= cost
        if self.budget < 0:
            raise self.bad(f"a pickle of at most {OPERATIONS} operations", "a longer one (a pickle bomb?)")

    def refusal(self, what: str) -> FileFormatError:
        """Return the exception for an operand of the wrong kind."""
        return self.bad("a well-formed pickle of plain data and tensors", what)

    def take(self, length: int) -> bytes:
        """Read `length` bytes that the file is known to have."""
        if length > self.left:
            raise self.bad(f"{length} more bytes of pickle", f"{self.left}: the file is truncated or lies")
        self.left -= length
        data = self.file.read(length)
        if len(data) != length:
            raise self.bad(f"{length} more bytes of pickle", f"{len(data)}: the file is truncated")
        return data

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def line(self) -> str:
        data = self.file.readline(min(self.left, 256))
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise self.refusal("a name without an end")
        return data[:-1].decode()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def integer(self, length: int) -> int:
        if length > LONGEST_INT:
            raise self.refusal(f"an integer of {length} bytes")
        return int.from_bytes(self.take(length), "little", signed=True)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise self.refusal("an opcode that finds its operands missing")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def find(self, module: object, name: object) -> object:
        """Return what stands for a global, or raise the exception that names it."""
        if isinstance(module, str) and isinstance(name, str) and (module, name) in self.known:
            return self.known[module, name]
        label = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a global without a name"
        advice = "nothing was run; of a whole pickled model save the state_dict: torch.save(model.state_dict(), ...)"
        raise self.bad("a checkpoint of tensors and plain data", f"the global {quoted(label)} ({advice})")

    def call(self, function: object, arguments: object) -> object:
        if not isinstance(arguments, tuple):
            raise self.refusal("a call without arguments")
        if isinstance(function, Constructor):
            return function.make(self, arguments)
        if isinstance(function, Inert):
            return Inert(function.name)
        raise self.refusal(f"a call of {quoted(function)}")

    def extend(self, target: object, items: list[object]) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise self.refusal(f"items for {quoted(target)}")

    def update(self, target: object, items: list[object]) -> None:
        if len(items) % 2:
            raise self.refusal("a key without a value")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self.key(key)] = value
        elif not isinstance(target, Inert):
            raise self.refusal(f"keys for {quoted(target)}")

    def key(self, key: object) -> object:
        """Return `key` when hashing it is cheap and harmless."""
        plain = key is None or isinstance(key, (str, bytes, bool, float, Inert))
        if plain or (isinstance(key, int) and abs(key) < LARGEST_KEY):
            return key
        raise self.refusal(f"{quoted(key)} as a key")

    def build(self) -> None:
        """Set the state of the object on top: NumPy's arrays and dtypes have one, everything else is left as it is."""
        state = self.stack.pop()
        target = self.stack[-1]
        set_state = getattr(target, "set_state", None)
        if set_state is not None:
            set_state(self, state)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self.call(function, arguments))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.find(module, name))

    def append(self) -> None:
        value = self.stack.pop()
        self.extend(self.stack[-1], [value])

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update(self.stack[-1], [key, value])

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def new_dict(self) -> None:
        items = self.pop_mark()
        made: dict[object, object] = {}
        self.update(made, items)
        self.push(made)

    def extend_marked(self) -> None:
        items = self.pop_mark()
        self.extend(self.stack[-1], items)

    def update_marked(self) -> None:
        items = self.pop_mark()
        self.update(self.stack[-1], items)

    def text(self, length: int) -> str:
        return self.take(length).decode("utf-8", "surrogatepass")

    def old_text(self, length: int) -> str:
        """Return a `str` of Python 2, whose encoding nobody knows."""
        return self.take(length).decode("latin-1")


STOP = ord(".")

# One line per opcode, in the order of the module pickletools. Sets become lists: their items need no hash.
ACTIONS: dict[int, Callable[[Machine], object]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: only a hint for buffering
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    0x8A: lambda m: m.push(m.integer(m.number(1))),
    0x8B: lambda m: m.push(m.integer(m.number(4))),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("T"): lambda m: m.push(m.old_text(m.number(4))),
    ord("U"): lambda m: m.push(m.old_text(m.number(1))),
    ord("B"): lambda m: m.push(m.take(m.number(4))),
    ord("C"): lambda m: m.push(m.take(m.number(1))),
    0x8E: lambda m: m.push(m.take(m.number(8))),
    0x96: lambda m: m.push(m.take(m.number(8))),  # a bytearray
    ord("X"): lambda m: m.push(m.text(m.number(4))),
    0x8C: lambda m: m.push(m.text(m.number(1))),
    0x8D: lambda m: m.push(m.text(m.number(8))),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("]"): lambda m: m.push([]),
    ord("a"): Machine.append,
    ord("e"): Machine.extend_marked,
    ord("l"): lambda m: m.push(m.pop_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): Machine.new_dict,
    ord("s"): Machine.set_item,
    ord("u"): Machine.update_marked,
    0x8F: lambda m: m.push([]),  # a set
    0x90: Machine.extend_marked,
    0x91: lambda m: m.push(m.pop_mark()),  # a frozenset
    ord("0"): lambda m: m.stack.pop() if m.stack else m.pop_mark(),
    ord("1"): Machine.pop_mark,
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("("): Machine.mark,
    ord("q"): lambda m: m.memoize(m.number(1)),
    ord("r"): lambda m: m.memoize(m.number(4)),
    0x94: lambda m: m.memoize(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.number(1)]),
    ord("j"): lambda m: m.push(m.memo[m.number(4)]),
    ord("c"): lambda m: m.push(m.find(m.line(), m.line())),
    0x93: Machine.stack_global,
    ord("R"): Machine.reduce,
    0x81: Machine.reduce,  # NEWOBJ: a constructor is a constructor
    ord("b"): Machine.build,
    ord("Q"): lambda m: m.push(m.persistent(m.stack.pop())),
}

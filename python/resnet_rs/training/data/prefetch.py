"""`Prefetch`: the items of an iterable, taken on a thread ahead of whoever uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from resnet_rs.checks import check_size
from resnet_rs.errors import ArgumentError
from resnet_rs.training.arguments import known_arguments

__all__ = ["Prefetch"]


class End:
    """The last thing in the queue: what ended the iteration, None for its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch:
    """The items of an iterable in their order; the next `depth` of them are taken on a thread while one is used.

    Args:
        iterable: batches for `Model.fit`, or anything; iterating over it twice iterates over this twice.
        depth: items that wait at most.

    Raises:
        ArgumentError: `iterable` is none; an error of the iterable is raised where its item would have come.

    >>> list(Prefetch(range(5), depth=2))
    [0, 1, 2, 3, 4]
    """

    @known_arguments
    def __init__(self, iterable: Iterable[Any], depth: int = 2) -> None:
        if not isinstance(iterable, Iterable):
            raise ArgumentError(f"iterable: expected one, got {type(iterable).__name__}")
        self.iterable, self.depth = iterable, check_size("depth", depth)

    def __iter__(self) -> Iterator[Any]:
        waiting: queue.Queue[Any] = queue.Queue(self.depth)
        stopped = threading.Event()

        def put(item: Any) -> None:
            # Room is only made by the reader, which may have gone: it empties the queue then.
            if not stopped.is_set():
                waiting.put(item)

        def take() -> None:
            try:
                for item in self.iterable:
                    put(item)
                    if stopped.is_set():
                        return
                put(End(None))
            except BaseException as error:
                put(End(error))

        thread = threading.Thread(target=take, name="resnet_rs-prefetch", daemon=True)
        thread.start()
        try:
            while not isinstance(item := waiting.get(), End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            stopped.set()
            while thread.is_alive():
                with suppress(queue.Empty):
                    waiting.get_nowait()
                thread.join(0.01)

"""The command line `resnet-rs`: classify images, look at models, time them, and say what the machine gives.

Exit codes: 0 done, 1 the work failed, 2 the command was wrong. Errors are one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .output import CommandError, fail, message
from .parser import parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    # Before anything else of the package: reading the environment may fail already.
    from resnet_rs.errors import ResnetError

    try:
        if getattr(args, "threads", None):
            from resnet_rs.runtime import set_num_threads

            set_num_threads(args.threads)
        code: int = args.run(args)
        # Not at exit, where a closed pipe could no longer be caught.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough, as in `resnet-rs list | head`; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, (CommandError, ResnetError, OSError, MemoryError, ImportError))
        fail(
            message(error)
            if expected
            else f"internal, please report: {type(error).__name__}: {message(error)} (--debug)",
            args.command,
        )
        return 1

"""The command line: ``initium check | audit | inspect | plan | predict | coord | write | diff |
explain | recipes | demo``.

Exit codes: 0 healthy, 1 findings at or above ``--fail-on`` (for ``diff`` and ``plan --diff``:
something differs; for ``coord``: something does not keep its size), 2 wrong usage or an unusable
model, 130 interrupted, 141 nobody reads what is printed. Every failure is one line on standard
error; ``--debug`` shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from initium.errors import InitiumError

__all__ = ["main", "run"]

FLAGS = {
    "pass inputs=": "add --inputs FILE.py:CALLABLE",
    "inputs=": "--inputs FILE.py:CALLABLE",
    "pass loss_fn=": "add --loss FILE.py:CALLABLE",
    "loss_fn=": "--loss FILE.py:CALLABLE",
    "pass overwrite=True": "add --overwrite",
    "; pass names={} if it is a part of that": "",
}
"""Arguments that advice names, and the flags that stand for them."""


def main() -> None:
    """The console script: run the command in ``sys.argv`` and exit with its code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # no spinning: quick on a busy machine too
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")  # its advice is not about weights
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing but an exit by a signal is raised."""
    import typer

    from initium._cli.app import app

    if not arguments:
        app(["--help"], prog_name="initium", standalone_mode=False)
        return 2
    try:
        code = app(list(arguments), prog_name="initium", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as error:  # user code that calls sys.exit while it builds a model
        if isinstance(error.__context__, BrokenPipeError):  # or typer, where the reader has left
            return _unread()
        return _fail(error, f"the model's code called exit({error.code!r})", arguments)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        return _fail(error, f"{message}. Try: initium --help", arguments)
    except InitiumError as error:
        return _fail(error, _flags(str(error)), arguments)
    except BrokenPipeError:
        return _unread()
    except Exception as error:
        return _fail(error, f"{_one_line(error)} (--debug shows the traceback)", arguments)
    return code if isinstance(code, int) else 0


def _unread() -> int:
    """The reader has left: nobody is told, and Python writes nothing more when it ends."""
    sys.stdout = None
    return 141


def _fail(error: BaseException, line: str, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    print(f"initium: error: {shown}", file=sys.stderr)
    return 2


def _flags(line: str) -> str:
    """Where the library's advice is an argument, the command line's is its flag."""
    told, fix, advice = line.rpartition("Fix: ")
    for argument, flag in FLAGS.items():
        advice = advice.replace(argument, flag)
    return told + fix + advice


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

"""What all verbs share: exit codes, messages, JSON output and progress."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from holdfast.errors import HoldfastError, InvalidConfig, StorageError, UsageError

if TYPE_CHECKING:
    from holdfast.evidence.record import Record

Json = Annotated[bool, typer.Option("--json", help="Put exactly one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice, 0 .. 2**64-1.", min=0)]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--arch", help="Architecture, when the file does not name one: cifar-resnet20, package.module:factory."
    ),
]
DataSpec = Annotated[str, typer.Option("--data", help="Data: digits, cifar10:ROOT, mnist:ROOT, folder:PATH.")]


def make_app() -> typer.Typer:
    """Return the app of one verb, without decoration that costs start-up time."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def execute(app: typer.Typer, verb: str, arguments: list[str]) -> int:
    """Run one verb and turn whatever happens into an exit code and a clear line on stderr.

    With ``--json`` a refusal is the one object on stdout: ``error``, ``hint`` and the ``kind`` of error.
    """
    _emitted.clear()
    try:
        code = app(arguments, prog_name=f"holdfast {verb}", standalone_mode=False)
    except HoldfastError as error:
        if "--json" in arguments and not _emitted:
            emit({"error": str(error), "hint": error.hint, "kind": type(error).__name__})
        return _explain(str(error), error.hint, error.exit_code)
    except KeyboardInterrupt:
        return _explain("interrupted", "finished work is kept; the same call resumes it", 130)
    except BrokenPipeError:
        raise
    except SystemExit:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # how the parser takes it that nobody reads any more
            raise BrokenPipeError from None
        raise
    except Exception as error:  # noqa: BLE001  the command line's last line
        return _foreign(error)
    if code == 130:  # the parser's own word for an interrupt
        return _explain("interrupted", "finished work is kept; the same call resumes it", 130)
    return code if isinstance(code, int) else 0


def _foreign(error: Exception) -> int:
    """Explain an exception that is not ours: the parser's usage errors, the disk's, or a bug."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _explain(error.format_message(), "see --help", 2)
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", 0))
    if type(error).__name__ == "Abort":
        return _explain("interrupted", "finished work is kept; the same call resumes it", 130)
    if isinstance(error, OSError):
        return _explain(f"{error.filename or 'the system'}: {error.strerror or error}", "", 3)
    traceback.print_exc()
    return _explain(
        f"unexpected {type(error).__name__}", "this is a bug in Holdfast; please report the lines above", 70
    )


def _explain(message: str, hint: str, code: int) -> int:
    lines = "\n  ".join(map(printable, message.split("\n")))  # indented: none of them looks like one of our own
    print(f"error: {lines}" + (f"\n  hint: {printable(hint)}" if hint else ""), file=sys.stderr)
    return code


def printable(text: str) -> str:
    """Return ``text`` with control characters spelled out: the name of a file must not rewrite what a terminal says."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def shorten(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns: what is too long, such as a path, loses its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def counted(count: int, thing: str) -> str:
    """Return ``1 file``, ``2 files``."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines with straight columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def say(text: str) -> None:
    """Tell a human; stdout stays free for JSON. A line feed ends a line; no other control character gets through."""
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


_emitted: list[bool] = []  # whether this call has put its one object on stdout


def emit(value: Record | dict[str, Any]) -> None:
    """Put one JSON object on stdout, in canonical form."""
    from holdfast.evidence import canonical

    _emitted.append(True)

    print(canonical.dumps(value if isinstance(value, dict) else value.to_json()).decode())


def require_other(out: Path, source: Path | str) -> None:
    """Raise :class:`InvalidConfig` when writing the artifact ``out`` would overwrite the model in ``source``."""
    place = Path(source).resolve()
    if out.resolve() in (place, place.parent if place.is_file() else place):
        raise InvalidConfig(f"{out} would overwrite the model it comes from", hint="give the result another name")


def require_writable(out: Path) -> None:
    """Raise :class:`StorageError` when no folder ``out`` can be written, before work is spent on what it is to hold."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise StorageError(f"cannot write {out}: {there} is a file", hint="give the result another name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {out}: {there} takes no files", hint="check its permissions")


def password_for(path: str | None) -> bytes | None:
    """Return a key's password from a file, or by prompt when the file is ``-``; never from the command line."""
    if path is None:
        return None
    if path == "-":
        import getpass

        if not os.isatty(0):
            raise UsageError("there is no terminal to ask for a password on", hint="name a file instead of -")
        return getpass.getpass("password of the key: ").encode()
    from holdfast._files import read_bytes

    return read_bytes(Path(path), "password file", limit=1 << 12, stream=True).rstrip(b"\r\n")


class Stage(Protocol):
    """One line of progress."""

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        ...

    def tell(self, text: str) -> None:
        """Show one line of text below all bars, in place of the one before."""
        ...


@contextmanager
def stages() -> Iterator[Callable[[str], Stage]]:
    """Yield ``announce(title)``, which adds a progress bar with rate and time left and returns what moves it."""
    from holdfast.cli._bars import Bars

    with Bars() as bars:
        yield bars.announce

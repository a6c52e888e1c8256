"""The entry point: commands, exit codes, and messages instead of tracebacks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

import graphopt
from graphopt.errors import GraphoptError, PassError

COMMANDS = (
    "run",
    "passes",
    "inspect",
    "compare",
    "diff",
    "bench",
    "check",
    "profile",
    "bisect",
    "replay",
    "export",
    "view",
)
_ERRNO = re.compile(r"\[(Errno|WinError) -?\d+\] ")


def build_app() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="graphopt",
        help="Clean, prune, recover and quantize ONNX models, and prove and time the result.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Show the version.")) -> None:
        if version:
            sys.stdout.write(f"graphopt {graphopt.__version__}\n")
            raise typer.Exit

    for name in COMMANDS:
        command: Callable[..., Any] = getattr(import_module(f"graphopt.cli.{name}"), name)
        app.command(name)(command)
    return app


def main() -> None:
    """Run the command line; ends the process with the documented exit code."""
    verbose = any(a in ("-vv", "-v", "--verbose") for a in sys.argv)
    try:
        build_app()()
    except GraphoptError as error:
        _fail(str(error) + _hint(error, verbose), error.exit_code, error if verbose else None)
    except KeyboardInterrupt:
        _fail("interrupted", 130, None)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except MemoryError:
        _fail("out of memory", 1, None)
    except Exception as error:  # noqa: BLE001 - the last boundary: a message, never a traceback
        hint = "" if verbose else " (-v shows where)"
        _fail(f"internal error: {type(error).__name__}: {error}{hint}", 1, error if verbose else None)


def _hint(error: GraphoptError, verbose: bool) -> str:
    """Where to look when code of a pass went wrong, not something that graphopt found out."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    crashed = isinstance(error, PassError) and not isinstance(root, GraphoptError)
    return "\n-v shows where" if crashed and not verbose else ""


def _fail(message: str, code: int, error: BaseException | None) -> None:
    if error is not None:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"graphopt: error: {_ERRNO.sub('', message)}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()

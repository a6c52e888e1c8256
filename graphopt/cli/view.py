"""``graphopt view REPORT``: open a report, or a model in Netron."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import arguments as args


def view(
    path: Annotated[Path, typer.Argument(help="A report folder, a report.html, or an ONNX file.", show_default=False)],
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    json: args.JsonOption = False,
    quiet: args.QuietOption = False,
) -> None:
    """Open the report of a run in the browser; a model opens in Netron if that is installed."""
    from graphopt.errors import UnsupportedError, UsageError

    out = args.output(json, 0, quiet)
    page = path / "report.html" if path.is_dir() else path
    if not page.is_file():
        raise UsageError(f"there is no {str(page)!r}; make one with: graphopt run ... --report DIR")
    if page.suffix == ".onnx":
        try:
            import netron  # type: ignore[import-not-found]
        except ImportError as error:
            raise UnsupportedError("models open in Netron, which is not installed: pip install netron") from error
        netron.start(str(page))
        return
    address = page.resolve().as_uri()
    opened = open_browser and webbrowser.open(address)
    out.show(address)
    out.json({"report": address, "opened": opened})

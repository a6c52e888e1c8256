"""External data: where a tensor's bytes may lie, and the checks before they are used.

The rules follow onnx's ExternalDataSecurity: the path is relative, stays below the model's folder, passes through
no symbolic link, the file is a plain one with a single hard link, and offset and length lie inside it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from onnx import TensorProto

from graphopt.errors import InvalidModelError
from graphopt.storage import FileRegion, tensor_bytes


def region_of(tensor: TensorProto, base: Path | None) -> FileRegion:
    """The file region that an external tensor names.

    Raises:
        InvalidModelError: no base folder, an escape from it, a missing file, or bounds outside the file.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if base is None:
        raise InvalidModelError(
            f"tensor {tensor.name!r} keeps its data in {location!r}, but the model was given as bytes; "
            "load it from its file, or pass base_dir="
        )
    path = _contained(tensor.name, location, base)
    info = path.stat()
    expected = tensor_bytes(tensor)
    offset = _number(tensor.name, "offset", entries.get("offset", "0"))
    length = _number(tensor.name, "length", entries.get("length") or str(expected))
    if length != expected:
        raise InvalidModelError(
            f"tensor {tensor.name!r} needs {expected} bytes for {list(tensor.dims)}, its external data has {length}"
        )
    if offset + length > info.st_size:
        raise InvalidModelError(
            f"tensor {tensor.name!r} ends at byte {offset + length} of {location!r}, which has {info.st_size} bytes"
        )
    return FileRegion(path, offset, length, info.st_mtime_ns)


def _contained(name: str, location: str, base: Path) -> Path:
    pure = PurePosixPath(location.replace("\\", "/"))
    if not location or pure.is_absolute() or ".." in pure.parts or Path(location).drive:
        raise InvalidModelError(
            f"tensor {name!r} keeps its data in {location!r}: the path must be relative and without '..'"
        )
    path = base
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise InvalidModelError(f"tensor {name!r} keeps its data in {location!r}, which is a symbolic link")
    try:
        info = os.lstat(path)
    except OSError as error:
        raise InvalidModelError(f"tensor {name!r}: external data file {str(path)!r} is missing") from error
    if not stat.S_ISREG(info.st_mode):
        raise InvalidModelError(f"tensor {name!r}: external data {str(path)!r} is not a plain file")
    if info.st_nlink > 1:
        raise InvalidModelError(f"tensor {name!r}: external data file {str(path)!r} has hard links; copy it first")
    return path


def _number(name: str, key: str, text: str) -> int:
    if not text.isdecimal():
        raise InvalidModelError(f"tensor {name!r} has the external data {key} {text!r}; it must be a number >= 0")
    return int(text)

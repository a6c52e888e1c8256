from __future__ import annotations

import pytest

from graphopt.runtime.cpu import cpu_info


def test_this_machine() -> None:
    info = cpu_info()
    assert info.model
    assert 1 <= info.usable_cores <= info.logical_cores


@pytest.mark.parametrize(
    ("text", "model", "vnni"),
    [
        ("processor: 0\nmodel name\t: Zen 4\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", "Zen 4", True),
        ("model name\t: Alder\nflags\t\t: fpu avx2 avx_vnni\n", "Alder", True),
        ("model name\t: Haswell\nflags\t\t: fpu avx2\n", "Haswell", False),
        ("Hardware\t: Board\nFeatures\t: fp asimd asimddp\n", "Board", True),
        ("model name\t: Odd\n", "Odd", None),
    ],
)
def test_flags(tmp_path, text: str, model: str, vnni) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    info = cpu_info(path)
    assert (info.model, info.vnni) == (model, vnni)


def test_without_cpuinfo(tmp_path) -> None:
    info = cpu_info(tmp_path / "none")
    assert info.vnni is None
    assert info.machine

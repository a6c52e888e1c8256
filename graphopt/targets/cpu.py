"""What the CPU of this machine can do, read from the operating system."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cpu:
    """Model name and feature flags; ``flags`` is None where the system does not tell."""

    name: str
    flags: frozenset[str] | None

    @property
    def vnni(self) -> bool | None:
        """Whether 8-bit dot products do not saturate; None when unknown. ARM's dot product counts."""
        if self.flags is None:
            return None
        return bool(self.flags & {"avx512_vnni", "avx_vnni", "avx512vnni", "asimddp", "amx_int8"})


def this_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """The CPU of this machine. Reads ``/proc/cpuinfo`` where there is one."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return Cpu(platform.processor() or platform.machine(), None)
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags", fields.get("features"))
    name = fields.get("model name", platform.machine())
    return Cpu(name, None if flags is None else frozenset(flags.split()))

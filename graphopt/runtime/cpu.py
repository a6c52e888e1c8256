"""Which processor is this, and does it have integer dot-product instructions?"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from graphopt.results import CpuInfo

_CPUINFO = Path("/proc/cpuinfo")
_NOTED = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")
_INTEGER_DOT = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})


def cpu_info(cpuinfo: Path = _CPUINFO) -> CpuInfo:
    """Describe the processor from /proc/cpuinfo, or from the platform where there is none.

    ``vnni`` is True when it has 8-bit dot products: VNNI or AMX on x86, dotprod or i8mm on Arm.
    """
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    machine = platform.machine()
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:
        return CpuInfo(_platform_name(), machine, logical, usable, None)
    flags = set(_field(text, "flags").split()) | set(_field(text, "Features").split())
    model = _field(text, "model name") or _field(text, "Hardware") or _platform_name()
    features = tuple(flag for flag in _NOTED if flag in flags)
    vnni = bool(flags & _INTEGER_DOT) if flags else None
    return CpuInfo(model, machine, logical, usable, vnni, features)


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _platform_name() -> str:
    if platform.system() == "Darwin":
        try:
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()

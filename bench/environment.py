"""What a run was made with: versions, machine, command."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.device import device_name, pick_device

LIBRARIES = ("recgauntlet", "torch", "numpy", "scipy", "pandas", "recbole", "pyarrow",
             "transformers", "tokenizers", "peft")


def environment() -> dict[str, Any]:
    """What a run was made with: versions, git hash if there is one, machine, command."""
    import importlib.metadata

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if "recgauntlet" not in found:
        from bench import __version__

        found["recgauntlet"] = __version__
    return {"versions": found, "git": _git_hash(), "os": platform.platform(),
            "cpu": _cpu(), "cpus": os.cpu_count(), "device": device_name(pick_device()),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}


def _git_hash() -> str | None:
    """The commit of the checkout that bench runs from; "+changes" where files differ."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        ask = ["git", "-C", str(root)]
        head = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True,
                              timeout=10, check=True).stdout.strip()
        dirty = subprocess.run([*ask, "status", "--porcelain", "-uno"], capture_output=True,
                               text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git here: the versions must do
        return None
    return head + ("+changes" if dirty else "")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # another system than Linux
        pass
    return platform.processor() or platform.machine()

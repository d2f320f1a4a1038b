"""Where numbers are computed: the device, its threads, its memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.errors import InputError


def pick_device(asked: str | None = None) -> str:
    """The device to compute on: what is asked for, $BENCH_DEVICE, or a GPU where there is one."""
    import torch

    asked = asked or os.environ.get("BENCH_DEVICE") or "auto"
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(asked).type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {asked!r} is asked for, and torch finds no GPU",
                             hint="set BENCH_DEVICE=cpu, or install torch with CUDA")
    except RuntimeError as error:
        raise InputError(f"{asked!r} is no device of torch", key="BENCH_DEVICE",
                         hint="allowed: auto, cpu, cuda, cuda:0, …") from error
    return asked


def device_name(device: str) -> str:
    """What the report calls the device."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


@contextlib.contextmanager
def computing(threads: int, device: str) -> Iterator[None]:
    """Inside, torch, BLAS and OpenMP use this many threads, and a GPU's kernels are the
    deterministic ones where there are such: numbers shall not depend on the engine."""
    import threadpoolctl  # type: ignore[import-untyped]
    import torch

    before = torch.get_num_threads()
    strict, warns = (torch.are_deterministic_algorithms_enabled(),
                     torch.is_deterministic_algorithms_warn_only_enabled())
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warns)


class Memory:
    """Peak memory in MB since the start of a job, or of a part of it.

    On a GPU: torch's peak of allocated memory. Elsewhere: the largest resident size of the
    whole process, libraries included. Linux lets a process restart that mark, at what is resident
    then: what earlier parts loaded and did not give back counts on. Where this is not possible,
    the mark is the process's own since its start.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._before = 0.0  # of this part, before a part of its own restarted the mark
        self._restart()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, `peak` is that since the start of this block; after it, as if there had been
        none."""
        before = self.peak()
        self._before = 0.0
        self._restart()
        try:
            yield
        finally:
            self._before = max(before, self.peak())

    def peak(self) -> float:
        """The largest so far."""
        return max(self._before, self._marked())

    def _restart(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def _marked(self) -> float:
        if self.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self.device) / 2**20
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**10
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a GPU."""
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text))

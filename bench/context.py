"""Randomness by name: every stream comes from the seed and names, never from what ran before."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Context:
    """The seed of a run and the device it computes on.

    A stream is made once and kept by its user: asking for the same names again gives a stream
    that starts over, which inside a loop would repeat the same numbers in silence.

    Attributes:
        seed, device: of the run.
        victim: what an attack may have of the attacked system (`bench.victim`), or None.
        notes: facts for the report that an attack writes while it works; "queries" and
            "trainings" are counted by `count`.
    """

    seed: int
    device: str = "cpu"
    victim: Any = field(default=None, compare=False, repr=False)
    notes: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def number(self, *names: object) -> int:
        """A 63-bit integer determined by the seed and the names."""
        text = "\x1f".join([str(self.seed), *map(str, names)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def stream(self, *names: object) -> np.random.Generator:
        """A numpy generator of its own for these names."""
        return np.random.default_rng(self.number(*names))

    def torch_stream(self, *names: object) -> torch.Generator:
        """A torch generator (on the CPU, so that numbers do not depend on the device)."""
        import torch

        return torch.Generator().manual_seed(self.number(*names))

    def apart(self, *names: object) -> Context:
        """A context with a seed of its own, determined by this one's and the names, without victim
        and notes: for what an attacker trains, who does not know what the attacked system draws.

        Whatever is made under it begins from other weights, meets other negatives and other noise
        than what is made under this one.
        """
        return dataclasses.replace(self, seed=self.number("apart", *names) % 2**31, victim=None,
                                   notes={})

    def count(self, queries: int, trainings: int = 0) -> None:
        """Count in the notes what an attack asks of the attacked system. This is the definition:

        - a query is one user (account, history, prompt) whose list or scores are read, or one
          row of data (a pair or a history) whose loss is differentiated;
        - a training is one retraining of the attacked pipeline with rows of the attacker's. It is
          counted beside its queries, since it costs the attacker a whole update of the system.

        What is asked of models of the attacker's own is neither. What is asked of the trained model
        while an attack is made on it is counted by `bench.queries`, static or adaptive alike.
        """
        self.notes["queries"] = self.notes.get("queries", 0) + queries
        if trainings:
            self.notes["trainings"] = self.notes.get("trainings", 0) + trainings

    @contextlib.contextmanager
    def seeded(self, *names: object) -> Iterator[None]:
        """Seed torch's, numpy's and Python's global generators inside; restore them after.

        For code that is not ours and draws from the global generators (initialisation of
        modules, dropout, RecBole's samplers).
        """
        import random

        import torch

        devices = [torch.cuda.current_device()] if self.device.startswith("cuda") else []
        python_state, numpy_state = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=devices):
            seed = self.number(*names)
            # not torch.manual_seed: without a device in use it queues a call, with its stack
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            try:
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)

"""The errors a user can meet. Each says what is wrong, where, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base of every error this package raises on purpose; the command prints it, no traceback."""


class InputError(BenchError):
    """Bad input (grid, data file, parameter). `run` exits with status 2 and nothing has run."""

    def __init__(self, what: str, *, file: object = None, line: int | None = None,
                 key: str | None = None, hint: str | None = None) -> None:
        self.what, self.file, self.line, self.key, self.hint = what, file, line, key, hint
        where = "" if file is None else str(file)
        where += "" if line is None else f":{line}"
        where += "" if key is None else (f" [{key}]" if where else f"[{key}]")
        super().__init__((f"{where}: " if where else "") + what + (f" ({hint})" if hint else ""))


class PluginError(BenchError):
    """A plugin broke its contract: over budget, wrong shape, unknown column. Its cell fails."""


class CannotActError(PluginError):
    """An attack or defense finds out, at the trained model, that it cannot act on it. Its cell is
    skipped with this reason, as if `unfit` had said it."""


class TrainingError(BenchError):
    """Training cannot go on (loss not finite, nothing to train on). The cell fails."""


NO_BATCH = ("there is nothing to train on: no batch could be made of the train rows (a model that "
            "reads histories learns from a row only where its user liked an item before it: take "
            "users with more rows (k_core: 5) or hold fewer rows out (split))")


class ScoreError(BenchError):
    """A model gave scores that cannot be ranked: NaN, infinite, or of another shape."""


def one_line(error: object) -> str:
    """The text of an error on one line: what a plugin or a library says may have several."""
    return " ".join(str(error).split())


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """A hint naming the closest known names: "did you mean 'fgsm'? known: fgsm, noise, pgd"."""
    names = sorted(set(known))
    lower = {k.lower(): k for k in names}
    close = [lower[c] for c in difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.6)]
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    known_text = f"known: {shown}" if names else "none are known"
    return (f"did you mean {' or '.join(repr(c) for c in close)}? " if close else "") + known_text

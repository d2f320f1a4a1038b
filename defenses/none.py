"""No defense: the model as it is trained by itself."""

from __future__ import annotations

from bench.api import Defense


class NoDefense(Defense):
    """Changes nothing. Always on the defense axis of a grid; no paper.

    Example: defenses: [none]
    """

    name = "none"

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {}

"""Counting what an attack asks of the model it is made on. `Context.count` says what a query is."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.context import Context
    from bench.models.base import Recommender


@dataclass
class Asked:
    """How many users' lists were read, and rows' losses differentiated.

    Attributes:
        inside: how deep in a question that is being answered.
    """

    queries: int = 0
    inside: int = 0


@contextlib.contextmanager
def counting(model: Recommender, ctx: Context, asked: Asked) -> Iterator[Context]:
    """Inside, what is asked of the model, of the one inside it, and of the undefended model that
    a static attack is made on (`ctx.victim.undefended`) is counted, each question once.

    Yields:
        the context for the attack: its victim hands out an undefended model that is counted.
    """
    with contextlib.ExitStack() as stack:
        def counted(one: Recommender) -> Recommender:
            from bench.models.base import innermost

            for part in dict.fromkeys((one, innermost(one))):
                stack.enter_context(_counted(part, asked))
            return one

        counted(model)
        hands_out = getattr(ctx.victim, "undefended", None)
        if hands_out is None:
            yield ctx
        else:
            victim = copy.copy(ctx.victim)
            object.__setattr__(victim, "undefended", lambda: counted(hands_out()))  # it is frozen
            yield dataclasses.replace(ctx, victim=victim)


@contextlib.contextmanager
def _counted(model: Recommender, asked: Asked) -> Iterator[None]:
    """Count through the object's own methods."""
    before = {}
    for name in ("scores", "loss"):
        method = getattr(model, name, None)
        if method is None:
            continue

        def answer(first: Any, *rest: Any, _method: Any = method, **more: Any) -> Any:
            if not asked.inside:  # what a wrapper asks of its model is no further query
                asked.queries += len(first["users"] if isinstance(first, dict) else first)
            asked.inside += 1
            try:
                return _method(first, *rest, **more)
            finally:
                asked.inside -= 1

        before[name] = vars(model).get(name)
        setattr(model, name, answer)
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:
                delattr(model, name)
            else:
                setattr(model, name, method)


@contextlib.contextmanager
def uncounted(model: Recommender) -> Iterator[None]:
    """Inside, scores that are asked of the model enter no count: who asks counts itself, or is no
    attacker."""
    from bench.models.base import innermost

    answers = [(part, vars(part).pop("scores")) for part in
               dict.fromkeys((model, innermost(model))) if "scores" in vars(part)]
    try:
        yield
    finally:
        for part, method in answers:
            part.scores = method  # type: ignore[method-assign]

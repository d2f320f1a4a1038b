"""The model whose best items a prompt scorer re-ranks, written as tables write it:
"bprmf(dim=32, epochs=40)"."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import yaml

from bench.errors import BenchError, InputError

if TYPE_CHECKING:
    from bench.api import ModelPlugin


@functools.cache
def parse(text: str) -> ModelPlugin:
    """The model plugin that a text names, with its parameters checked.

    Raises:
        InputError: it names none, several, or one that reads prompts itself.
    """
    from bench.api import ModelPlugin
    from bench.expand import Axis
    from bench.registry import Registry
    from bench.yaml_lines import Problems, _Walker

    match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise InputError(f"{text!r} names no model", key="retriever",
                         hint='write name or "name(parameter=value, …)"')
    inside = re.sub(r'("[^"]*"|\'[^\']*\')|([\w-]+)\s*=\s*',
                    lambda m: m[1] or f"{m[2]}: ", match[2] or "")
    problems = Problems("retriever")  # type: ignore[arg-type]
    try:
        root = yaml.compose(f"[{{{match[1]}: {{{inside}}}}}]", Loader=yaml.SafeLoader)
        node = _Walker(problems).node(root, "", ())
        made = Axis("models", Registry(), problems, []).plugins(node)
        problems.check()
    except (yaml.YAMLError, BenchError) as error:
        what = error.what if isinstance(error, InputError) else "it cannot be read"
        raise InputError(f"retriever {text!r}: {what}", key="retriever",
                         hint=getattr(error, "hint", None)) from error
    if len(made) != 1 or not isinstance(made[0], ModelPlugin):
        raise InputError(f"retriever {text!r} stands for {len(made)} models", key="retriever",
                         hint="one value per parameter")
    if "prompts" in made[0].gives:
        raise InputError(f"{made[0].name} re-ranks itself and cannot retrieve", key="retriever")
    return made[0]

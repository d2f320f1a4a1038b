"""Contracts of every plugin: its name, parameters, documentation, determinism, good manners."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench import coerce
from bench.plugin import Plugin
from bench.testing import ContractError, Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab

REFERENCE = re.compile(r"\b(19|20)\d\d\b|https?://|arXiv|\bno paper\b", re.IGNORECASE)
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [name, parameters, json_round_trip, documentation, example, inputs_unchanged,
            same_seed, other_seed, spawned_worker]


def from_recbole(cls: type[Plugin]) -> bool:
    """Members of RecBole keep RecBole's names and documentation."""
    return cls.__module__ == "bench.models.recbole"


def name(lab: Lab) -> None:
    """The name is kebab-case and this class is what the registry finds under it."""
    cls = lab.cls
    require(from_recbole(cls) or bool(KEBAB.fullmatch(cls.name)),
            f"the name {cls.name!r} is not kebab-case",
            "use lower-case letters and digits, words joined by single hyphens")
    found = lab.registry.get(lab.kind, cls.name) if cls.name in lab.registry.names(lab.kind) \
        else cls
    require(found.__qualname__ == cls.__qualname__,
            f"the name {cls.name!r} also belongs to {found.__module__}.{found.__qualname__}",
            "rename one of them")


def parameters(lab: Lab) -> None:
    """Every parameter has a default and a sentence that says what it means."""
    known = coerce.parameters(lab.cls)
    for f in known.values():
        require(f.default is not dataclasses.MISSING, f"parameter {f.name!r} has no default",
                f"write {f.name}: … = param(default, \"what it means\")")
        text = str(f.metadata.get("help") or "")
        require(len(text.split()) > 1, f"parameter {f.name!r} has no help sentence: {text!r}",
                f"write {f.name}: … = param(default, \"what it means, with its unit\")")
    unknown = sorted(set(lab.params) - set(known))
    require(not unknown, f"test_params names {', '.join(unknown)}, which it does not have",
            f"its parameters are {', '.join(sorted(known)) or 'none'}")


def json_round_trip(lab: Lab) -> None:
    """Parameters survive JSON: that is how a job crosses to another process."""
    for plugin in (lab.cls(), lab.plugin()):
        back = lab.cls.from_params(json.loads(json.dumps(plugin.params())))
        require(back == plugin, f"{plugin} comes back from JSON as {back}",
                "use numbers, strings, booleans, None and tuples of them as parameters")
        hash(plugin)


def documentation(lab: Lab) -> None:
    """The docstring has a summary, and a reference or the words "no paper"."""
    text = lab.cls.__dict__.get("__doc__") or ""
    if text.startswith(f"{lab.cls.__name__}("):  # what dataclass writes where there is none
        text = ""
    require(bool(text.strip()), "the class has no docstring",
            "say what it does, from which paper, its budget and shapes, and an Example line")
    require(len(lab.cls.summary().split()) > 2, f"the summary says too little: "
            f"{lab.cls.summary()!r}", "let the first line say what it does")
    if not from_recbole(lab.cls):
        require(bool(REFERENCE.search(text)), "the docstring names no paper",
                "name authors, title, venue and year of the source, or say \"no paper\"")


def example(lab: Lab) -> None:
    """The docstring's Example line is a piece of a grid that loads and contains the plugin."""
    from bench.errors import InputError
    from bench.grid import load_grid

    line = example_line(lab.cls)
    require(line is not None, "the docstring has no line `Example: …`",
            f"end it with a piece of a grid, such as Example: {lab.kind}: [{lab.cls.name}]")
    parts = {"datasets": "datasets: [blocks]", "models": "models: [bprmf]",
             "metrics": "metrics: [ndcg@10]", lab.kind: line or ""}
    text = "name: example\nseeds: [0]\n" + "\n".join(parts.values()) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            grid = load_grid(path, lab.registry)
        except InputError as error:
            raise ContractError(f"the Example line is refused: {error.what}",
                                f"correct it: {line}") from error
    axis: tuple[Plugin, ...] = getattr(grid, lab.kind)
    require(any(type(p).name == lab.cls.name for p in axis),
            f"the Example line does not use {lab.cls.name!r}: {line}", "show how it is asked for")


def example_line(cls: type[Plugin]) -> str | None:
    """What follows "Example:", up to the next empty line."""
    match = re.search(r"Example:\s*(.+?)(?:\n\s*\n|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    return textwrap.dedent(match.group(1)).strip() if match else None


def _made(lab: Lab, seed: int, state: int) -> tuple[str, bool]:
    from bench._contracts_lab import fingerprint, global_generators

    with global_generators(state):
        return fingerprint(lab, seed)


def same_seed(lab: Lab) -> None:
    """The same seed gives the same output, whatever state the global generators are in."""
    require(_made(lab, 0, 1)[0] == _made(lab, 0, 2)[0],
            "the same seed gives another output when run again",
            "take all randomness from ctx, by name: ctx.stream(self.name, …); use neither global "
            "generators nor the clock, and put calls to foreign code inside ctx.seeded(…)")


def other_seed(lab: Lab) -> None:
    """Another seed gives another output, if the plugin draws at random."""
    first, random = _made(lab, 0, 1)
    if not random:
        raise Skip("it draws nothing at random")
    require(any(_made(lab, seed, 1)[0] != first for seed in (1, 2)),
            "seeds 0, 1 and 2 give the same output, though it asks for random numbers",
            "let what is drawn reach the output; derive streams from ctx, not from a fixed seed")


def inputs_unchanged(lab: Lab) -> None:
    """Neither the data, nor a trained model, nor the global generators are changed."""
    from bench._contracts_lab import (
        blocks,
        digest,
        fingerprint,
        global_state,
        poisoned,
        profile_task,
        start_over,
        trained_bprmf,
    )

    def handed() -> list[str]:
        model = trained_bprmf()
        modes = [model.module.training, *(p.requires_grad for p in model.module.parameters())]
        return [digest(x) for x in (blocks(), poisoned(), model.state(), modes, *profile_task())]

    start_over()  # an earlier check may have left its marks
    before, generators = handed(), global_state()
    try:
        fingerprint(lab, 0)
        after = handed()
    finally:
        start_over()
    names = ("the dataset", "the dataset with fake users", "the trained model",
             "what the trained model may learn, or its mode", "the targets", "the lengths")
    changed = [n for n, a, b in zip(names, before, after, strict=True) if a != b]
    require(not changed, f"it changes what it was given: {', '.join(changed)}",
            "copy arrays and tensors before writing into them; put modes and requires_grad back")
    require(generators == global_state(), "it draws from a global generator",
            "take randomness from ctx; put calls to foreign code inside ctx.seeded(…)")


def spawned_worker(lab: Lab) -> None:
    """A freshly started process makes the same plugin from JSON, and it gives the same output."""
    from bench._contracts_lab import spawn

    compare_spawned(lab, spawn([lab])[0])


def compare_spawned(lab: Lab, answer: tuple[str, str]) -> None:
    """Judge what another process answered about this plugin."""
    from bench._contracts_lab import fingerprint

    state, text = answer
    if state == "skip":
        raise Skip(text)
    require(state == "ok", f"in another process it fails: {text}",
            "keep the plugin importable from its file alone, and its state in parameters")
    require(text == fingerprint(lab, 0)[0], "another process gives another output",
            "do not rely on module state, on hash() of strings, or on the order of sets")

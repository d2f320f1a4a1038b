"""Prompts are files: a name, a version, and the texts around histories and candidates.

    name: yes-no
    version: 1
    kind: pointwise
    item: "{text}"
    history: "- {item}\\n"
    prefix: "A user liked these, oldest first:\\n{history}"
    candidate: "Will the user also like {item}? Answer Yes or No.\\nAnswer:"
    yes: [" Yes", " yes"]
    no: [" No", " no"]

What stands in `prefix` is computed once per user, what stands in `candidate` once per candidate.
A brace that is text is written twice, {{ or }}; a slot is a name alone, with no conversion.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.errors import InputError, nearest, one_line
from bench.text.templates import around, fill, slots

FOLDER = Path(__file__).parent / "prompts"
KINDS = ("pointwise", "title", "listwise", "pairwise", "seq2seq")
_SLOTS = {"item": {"text"}, "history": {"item"},
          "prefix": {"about", "history", "disliked", "last", "example", "attributes"},
          "disliked": {"history"},
          "candidate": {"item", "items", "first", "second"}, "line": {"label", "item"}}
_TWICE = "a brace that is text is written twice: {{ or }}"


@dataclass(frozen=True)
class Prompt:
    """One prompt file.

    Attributes:
        kind: what it asks: pointwise (yes or no of one candidate), title (the next title),
            listwise (an order of several), pairwise (the better of two), seq2seq.
        item: how the text of an item is set, with {text}; "<item>{text}</item>" delimits it.
        history: how one item of a history is set, with {item}.
        prefix: what stands before all candidates, with {history} and, if wanted, {about} (a
            statement about the user, nothing unless an audit makes one), {last} (the most recent
            item), {example}, {attributes} (of the user), {disliked}.
        disliked: pointwise: what stands for {disliked}, with {history}, where the user disliked
            something; nothing does where not.
        candidate: what follows for a candidate, with {item}; listwise with {items}; pairwise
            with {first} and {second}; seq2seq with {item} or {items}.
        line: where there are {items}: how one of them is set, with {item}; listwise with
            {label}, too, by which the answer names it.
        yes, no: texts whose first token counts as the answer.
    """

    name: str
    version: int
    kind: str
    prefix: str
    candidate: str
    item: str = "{text}"
    history: str = "- {item}\n"
    line: str = "{label}. {item}\n"
    disliked: str = ""
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()

    def titled(self, text: str) -> str:
        """The text of an item as the prompt sets it."""
        return fill(self.item, text=text)

    def before(self, history: Sequence[str], example: str = "", attributes: str = "",
               about: str = "", disliked: Sequence[str] = ()) -> str:
        """The prefix for the texts of liked and of disliked items, oldest first."""
        lines, others = ("".join(fill(self.history, item=self.titled(t)) for t in texts)
                         for texts in (history, disliked))
        return fill(self.prefix, history=lines or "(nothing yet)\n", example=example,
                    attributes=attributes, about=about,
                    disliked=fill(self.disliked, history=others) if others else "",
                    last=self.titled(history[-1]) if history else "(nothing yet)")

    def after(self, text: str) -> tuple[str, str, str]:
        """The suffix for one candidate: what stands before its text, the text, what follows."""
        lead, follow = around(self.candidate, "item", item=self.titled(text))
        begin, end = around(self.item, "text", text=text)
        return lead + begin, text, end + follow


def known() -> list[str]:
    """Names of the prompts that come with the package."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def prompt_path(name: str) -> Path:
    """The file of a prompt: one of the package's by its name, or a path that ends in .yaml.

    Raises:
        InputError: there is none.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"there is no prompt {name!r}", key="prompt",
                         hint=nearest(name, known()) + "; or the path of a .yaml file")
    return path


def read(name: str) -> Prompt:
    """The prompt of this name, whatever it asks.

    Raises:
        InputError: no such file, or a mistake in it.
    """
    path = prompt_path(name)
    return _load(str(path), path.stat().st_mtime_ns)


def content(name: str) -> str:
    """The hash of a prompt file, for keys."""
    return hashlib.sha256(prompt_path(name).read_bytes()).hexdigest()[:20]


def load(name: str, kind: str) -> Prompt:
    """The prompt of this name, which must be of this kind.

    Raises:
        InputError: no such file, a mistake in it, or a prompt that asks something else.
    """
    found = read(name)
    if found.kind != kind:
        raise InputError(f"prompt {name!r} asks {found.kind}, this model asks {kind}",
                         key="prompt", hint="known: " + ", ".join(
                             n for n in known() if _load(str(prompt_path(n)), 0).kind == kind))
    return found


@functools.cache
def _load(path: str, stamp: int) -> Prompt:
    try:
        # all values as texts: in YAML 1.1 the words yes and no are truth values
        read: Any = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not a prompt: {one_line(error)}", file=path) from error
    if not isinstance(read, dict):
        raise InputError("a prompt file holds keys with texts", file=path, hint="see "
                         "bench/text/prompts/yes-no.yaml")
    fields = list(Prompt.__annotations__)
    for key in read:
        if key not in fields:
            raise InputError(f"a prompt has no {key!r}", file=path, key=str(key),
                             hint=nearest(str(key), fields))
    for key in ("name", "version", "kind", "prefix", "candidate"):
        if key not in read:
            raise InputError(f"the prompt has no {key!r}", file=path, key=key,
                             hint="see bench/text/prompts/yes-no.yaml")
    values: dict[str, Any] = {}
    for key, value in read.items():
        if key in ("yes", "no"):
            value = (value,) if isinstance(value, str) else value
            good = isinstance(value, (list, tuple)) and all(isinstance(v, str) and v
                                                            for v in value)
            values[key] = tuple(value) if good else ()
            if not good:
                raise InputError(f"{key!r} is a list of texts in quotes", file=path, key=key,
                                 hint='yes: [" Yes", " yes"]')
        elif key == "version":
            if not isinstance(value, str) or not value.isdecimal():
                raise InputError("a version is a whole number", file=path, key=key)
            values[key] = int(value)
        elif not isinstance(value, str):
            raise InputError(f"{key!r} is a text", file=path, key=key, hint="put it in quotes")
        else:
            values[key] = value
    made = Prompt(**values)
    _check(made, path)
    return made


def _check(p: Prompt, path: str) -> None:
    if p.kind not in KINDS:
        raise InputError(f"{p.kind!r} is no kind of prompt", file=path, key="kind",
                         hint=nearest(p.kind, KINDS))
    asked = {key: _slots(p, key, path) for key in _SLOTS}
    needed = {"item": {"text"}, "history": {"item"}, "prefix": {"history"},
              "candidate": {"listwise": {"items"}, "pairwise": {"first"}}.get(p.kind, {"item"})}
    if p.disliked:
        needed["disliked"] = {"history"}
    if p.kind == "seq2seq" and "items" in asked["candidate"]:
        needed["candidate"] = {"items"}
    if "items" in needed["candidate"]:  # without a label no answer names a candidate
        needed["line"] = {"item", "label"} if p.kind == "listwise" else {"item"}
    for key, wanted in needed.items():
        if wanted - asked[key]:
            raise InputError(f"{key!r} does not say where {{{min(wanted - asked[key])}}} goes",
                             file=path, key=key, hint=_TWICE)
    more = asked["candidate"] - needed["candidate"] - (
        {"second"} if p.kind == "pairwise" else set())
    if more:
        raise InputError(f"'candidate' has no slot {{{min(more)}}} in a prompt of kind {p.kind} "
                         f"with {{{min(needed['candidate'])}}}", file=path, key="candidate",
                         hint=_TWICE)
    if bool(p.disliked) != ("disliked" in asked["prefix"]):
        raise InputError("'disliked' and the place {disliked} in 'prefix' need each other",
                         file=path, key="disliked", hint="see "
                         "bench/text/prompts/likes-dislikes.yaml")
    if p.disliked and p.kind != "pointwise":
        raise InputError("only a pointwise prompt lists what was disliked", file=path,
                         key="disliked")
    if p.kind == "pointwise" and not (p.yes and p.no):
        raise InputError("a pointwise prompt names the texts that count as yes and as no",
                         file=path, key="yes", hint='yes: [" Yes"]')


def _slots(p: Prompt, key: str, path: str) -> frozenset[str]:
    """The slots of this text of the prompt, all of which it may have."""
    try:
        used = slots(getattr(p, key))
    except ValueError as error:
        raise InputError(f"{key!r}: {error}", file=path, key=key, hint=_TWICE) from error
    if used - _SLOTS[key]:
        raise InputError(f"{key!r} has no slot {{{min(used - _SLOTS[key])}}}", file=path, key=key,
                         hint="slots: " + ", ".join(f"{{{s}}}" for s in sorted(_SLOTS[key]))
                         + "; " + _TWICE)
    return used

"""A prompt that says what is data and what is an instruction, with item texts that cannot leave
their delimiters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.text.prompted import PromptedModel
    from bench.text.prompts import Prompt
    from bench.text.scorer import PromptRecommender
    from bench.training import Loop

_SUFFIX = "-delimited"


class DelimitedPrompt(Defense):
    """Asks with the delimiting variant of the model's prompt, in which every item text stands
    between delimiters and the model is told that what is there is data, never an instruction.

    Asked is the prompt `<prompt>-delimited` of the package; who has a prompt of one's own names
    its delimiting variant too. A model whose prompt has none is skipped. Item texts lose whatever
    reads like a delimiter, in any case, spacing and width (</item>, < / ITEM >, full-width ones);
    symbols of the delimiters that stand alone become round brackets or spaces, so that no text
    can close what it stands in. Delimiting: Hines et al., "Defending Against Indirect Prompt
    Injection Attacks With Spotlighting" (2024), https://arxiv.org/abs/2403.14720, who find it the
    weakest of their three ways: models often obey all the same.

    A model that is fine-tuned is so with the delimiting prompt. Clean accuracy changes as with
    any other wording. delimit false: nothing happens. Adaptive attack: those on texts ask the
    model behind the prompt, their texts escaped.

    Example: defenses: [{delimited-prompt: {delimit: true}}]
    """

    name = "delimited-prompt"
    delimit: bool = param(True, "whether the delimiting prompt is asked")
    prompt: str = param("", "the delimiting prompt, a name or the path of a .yaml file; empty: the "
                        "model's own name with -delimited")

    def __post_init__(self) -> None:
        from bench.text.prompts import read

        if self.prompt:  # a mistake is named where the grid can still say in which line
            read(self.prompt)

    def keyed(self) -> dict[str, Any]:
        named = self.prompt.endswith((".yaml", ".yml"))
        return {**super().keyed(), "prompt": "a file" if named else self.prompt}

    def contents(self) -> tuple[str, ...]:
        """What the model's prompt is, nobody has said yet: all of the package's count."""
        from bench.text.prompts import content, known

        return tuple(content(n) for n in ([self.prompt] if self.prompt else
                                          [n for n in known() if n.endswith(_SUFFIX)]))

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "prompts" not in model.gives:
            return f"{model.name} asks with no prompt"
        asked = cast("PromptedModel", model)
        own = _named(asked)
        if not self.prompt and own.endswith((".yaml", ".yml")) and \
                not Path(own).stem.endswith(_SUFFIX):
            return (f"the prompt is the file {own}: name its delimiting variant, "
                    f"{{{self.name}: {{prompt: a .yaml file}}}}")
        found = self._delimiting(asked)
        return found if isinstance(found, str) else None

    def _delimiting(self, model: PromptedModel) -> Prompt | str:
        """The prompt to ask with, or why there is none."""
        from bench.errors import InputError
        from bench.text.prompts import load

        own, plain = _named(model), model.the_prompt()
        name = self.prompt or (own if Path(own).stem.endswith(_SUFFIX) else own + _SUFFIX)
        try:
            made = load(name, plain.kind)
        except InputError as error:
            return str(error)
        if (made.yes, made.no) != (plain.yes, plain.no):
            return f"prompt {name!r} has other answers than {own!r}"
        if not all(_symbols(d) for d in _delimiters(made)):
            return (f"prompt {name!r} puts item texts between no delimiters: its item is "
                    f"{made.item!r}")
        return made

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """A model that learns from prompts learns from the delimiting one; the epochs stay."""
        self._delimit(loop.model)
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        self._delimit(model)
        return model

    def _delimit(self, model: Recommender) -> None:
        from bench.errors import CannotActError
        from bench.models.base import innermost
        from bench.text.scorer import PromptRecommender

        asking = innermost(model)
        if not self.delimit or (isinstance(asking, PromptRecommender) and _escapes(asking)):
            return
        if not isinstance(asking, PromptRecommender):
            raise CannotActError(f"{self.name}: {type(asking).__name__} asks with no prompt")
        found = self._delimiting(asking.plugin)
        if isinstance(found, str):
            raise CannotActError(f"{self.name}: {found}")
        asking.prompt = found
        asking.filtered(Escape(found))
        asking.relearned()

    def unseen(self) -> None:
        return None  # it changes what the model inside reads, and attackers read it there

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """The prompt that is asked, and how many of the catalogue's own texts are escaped."""
        from bench.models.base import innermost

        asking = cast("PromptRecommender", innermost(model))
        own = _escapes(asking)
        if own is None:
            return {}
        texts = model.data.item_text or ()
        changed = sum(a != b for a, b in zip(texts, own(texts), strict=True))
        return {"prompt": f"{asking.prompt.name} {asking.prompt.version}",
                "clean_texts_changed": changed / max(len(texts), 1), "of": len(texts)}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"delimit": False}


class Escape:
    """The filter: texts without anything that reads like a delimiter of this prompt."""

    def __init__(self, prompt: Prompt) -> None:
        ends = _delimiters(prompt)
        self._symbols = set("".join(map(_symbols, ends)))
        some = "[" + re.escape("".join(sorted(self._symbols))) + "]"
        names = sorted({w for end in ends for w in re.findall(r"\w+", end)})
        self._tags = [re.compile(rf"{some}\W{{0,9}}{re.escape(n)}\W{{0,9}}?{some}", re.IGNORECASE)
                      for n in names]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [self._one(t) for t in texts]

    def _one(self, text: str) -> str:
        plain = "".join(n if set(n := unicodedata.normalize("NFKC", c)) & self._symbols else c
                        for c in text)
        if not set(plain) & self._symbols:
            return text
        for tag in self._tags:
            plain = tag.sub(" ", plain)
        return "".join({"<": "(", ">": ")"}.get(c, " ") if c in self._symbols else c
                       for c in plain)


def _named(model: PromptedModel) -> str:
    """The model's prompt as the grid names it, or the name of its own."""
    return model.prompt or model.the_prompt().name


def _delimiters(prompt: Prompt) -> tuple[str, str]:
    from bench.text.templates import around

    return around(prompt.item, "text")


def _symbols(delimiter: str) -> str:
    """Its first and its last character, where they are symbols: without them it is none."""
    seen = delimiter.strip()
    return "".join(c for c in (seen[:1], seen[-1:]) if c and not c.isalnum())


def _escapes(model: Any) -> Escape | None:
    return next((f for f in model.filters if isinstance(f, Escape)), None)

"""Models that ask a language model with a prompt, for the best candidates of another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from bench.api import Dataset, ModelPlugin, param

if TYPE_CHECKING:
    from bench.text.prompts import Prompt

DTYPES = ("auto", "float32", "bfloat16", "float16")


class LanguageModel(ModelPlugin):
    """Base of models that load a language model: which one, and in which precision."""

    model: str = param("", "the language model: a hub name, a local folder, or tiny-random (two "
                       "layers of random weights, which know nothing: for tests)")
    revision: str = param("", "revision of a hub model; without one, cells that are stored "
                          "stay when the hub's newest changes")
    dtype: str = param("auto", "of the weights; auto: bfloat16 on a GPU, float32 on a CPU",
                       choices=DTYPES)

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return contents(self.model)

    def keyed(self) -> dict[str, Any]:
        from bench.text.language import unplaced

        return unplaced(super().keyed(), "model")

    def unfit(self, data: Dataset) -> str | None:
        from bench.text.reader import no_text

        if not self.model:
            return (f"no language model is named: {{{self.name}: {{model: a hub name or a local "
                    "folder}}")
        return no_text(data)


class PromptedModel(LanguageModel):
    """Base of models that ask with a prompt. They re-rank the best candidates of a retriever;
    whoever is no candidate comes after them, in the retriever's order."""

    prompt: str = param("", "name of a prompt of the package, or the path of a .yaml file; empty: "
                        "the model's own")
    history: int = param(10, "most items of a user's history in the prompt, the latest ones; "
                         "as many disliked ones, where the prompt lists them",
                         low=0)
    candidates: int = param(20, "items that are re-ranked for each user; 0: the whole catalogue",
                            low=0)
    retriever: str = param("pop", 'the model that candidates are the best items of, as '
                           '"bprmf(dim=32, epochs=40)"; for items that nobody took '
                           'yet one that reads texts, as tfidf')
    prompts_at_once: int = param(16, "prompts that the model reads together", low=1)
    chat: str = param("auto", "whether prompts are asked as a user's message, through the "
                      "tokenizer's chat template; auto: where a GPT-type model has one",
                      choices=("auto", "true", "false"))
    asks: ClassVar[str] = "pointwise"
    own_prompt: ClassVar[str] = "yes-no"
    roles: ClassVar[tuple[str, ...]] = ("causal", "seq2seq", "masked")

    def __post_init__(self) -> None:
        above = getattr(super(), "__post_init__", None)
        if above is not None:
            above()
        self.the_prompt()
        if self.retriever != type(self).retriever:  # looking it up needs all models, also this one
            self.retrieving()

    def the_prompt(self) -> Prompt:
        """The prompt that it asks with, a `bench.text.prompts.Prompt`."""
        from bench.text.prompts import load

        return load(self.prompt or self.own_prompt, self.asks)

    def retrieving(self) -> ModelPlugin:
        """The retriever's plugin."""
        from bench.text.retriever import parse

        return parse(self.retriever)

    @property
    def gives(self) -> frozenset[str]:
        given = {"text", "prompts", "histories"}
        return frozenset(given | {"dislikes"} if self.the_prompt().disliked else given)

    @property
    def lists_candidates(self) -> bool:
        """Whether one prompt holds several candidates."""
        return self.asks in ("listwise", "pairwise")

    def order_unread(self) -> str | None:
        """Why an order of candidates that somebody drew would not reach it; None where it does."""
        if not self.lists_candidates:
            return f"{self.name} asks for each candidate alone: their order does not reach it"
        if "sliding" in (self.name, getattr(self, "method", "")):
            return (f"{self.name} begins with the retriever's order, which says something, and "
                    "not with one that anybody drew")
        return None

    def contents(self) -> tuple[str, ...]:
        from bench.text.prompts import content

        return (*super().contents(), content(self.prompt or self.own_prompt),
                *self.retrieving().contents())

    def keyed(self) -> dict[str, Any]:
        retriever, own = self.retrieving(), super().keyed()
        prompt = "a file" if self.prompt.endswith((".yaml", ".yml")) else self.prompt
        return {**own, "prompt": prompt, "retriever": [retriever.name, retriever.keyed()]}

    def uses(self) -> tuple[tuple[str, str], ...]:
        return (("models", self.retrieving().name),)

    def unfit(self, data: Dataset) -> str | None:
        return super().unfit(data) or self.retrieving().unfit(data)

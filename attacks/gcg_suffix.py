"""A suffix for an item's text, optimised token by token with the model's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, ModelPlugin, ThreatModel, param
from bench.errors import InputError
from bench.text_attack import TextAttack
from bench.text_shown import Shown

if TYPE_CHECKING:
    from bench.text.gcg import Suffix


class GCGSuffix(TextAttack):
    """Appends `tokens` tokens, found by greedy coordinate gradient: Zou et al., "Universal and
    Transferable Adversarial Attacks on Aligned Language Models" (2023), Algorithm 1; to promote
    products: Kumar & Lakkaraju, "Manipulating Large Language Models to Increase Product
    Visibility" (2024, https://arxiv.org/abs/2404.07981).

    Climbs the mean margin log P(yes) − log P(no) of the target in the prompts of `prompts` of the
    attacker's users, from " ! ! !". A round takes the slope of the margin by the one-hot tokens of
    the suffix, draws `candidates` replacements of one token among the `top` steepest, asks the
    model for the margin of each, and takes the best one if it is better, so that the margin never
    falls. Tokens are visible ASCII, with at most a space before it. Each text is written and read
    again: whatever the tokenizer reads as other tokens is thrown away. In the end the text stays
    as it was unless, over all of the attacker's users, the item gains with the suffix.

    White-box. Budget: `edits` characters appended, two of each token at least, which is where the
    search begins; longer tokens are tried as far as the characters last. No bound keeps the
    suffix readable, and a reader sees it. Where not even " ! !" is within the bounds on words or
    meaning, the text stays, and the facts count it (`targets_out_of_bounds`).
    Costs iterations · candidates · prompts prompts per target, in the facts as queries.

    Example: attacks: [{gcg-suffix: {tokens: 20, candidates: 128, iterations: 100}}]
    """

    name = "gcg-suffix"
    tokens: int = param(20, "tokens of the suffix", low=1)
    candidates: int = param(128, "replacements that are tried in each round", low=1)
    iterations: int = param(100, "rounds, each of which replaces at most one token", low=0)
    top: int = param(256, "tokens per place that replacements are drawn from", low=1)
    prompts: int = param(8, "users, of those that the attacker knows, in whose prompts the margin "
                         "is taken", low=1)
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "white", "push")

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.edits < 2 * self.tokens:
            raise InputError(f"{self.tokens} tokens need {2 * self.tokens} characters at least, "
                             f"and edits allows {self.edits}", key=f"{self.name}: tokens",
                             hint=f"tokens: at most {self.edits // 2}, or more edits")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.text.prompted import PromptedModel

        if not isinstance(model, PromptedModel) or model.asks != "pointwise":
            return (f"{model.name} is no language model that is asked yes or no about one "
                    "candidate at a time")
        return super().unfit(model, data)

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        found = self.search(text, item, shown, ctx)
        random = ctx.stream(self.name, item)
        if not shown.allowed(item, found.now):
            shown.asked += found.read
            ctx.notes["targets_out_of_bounds"] = ctx.notes.get("targets_out_of_bounds", 0) + 1
            return text  # not even the first suffix is in the bounds
        for _ in range(self.iterations):
            if not found.round(self.candidates, self.top, random):
                break
        shown.asked += found.read
        return found.now if shown.gain(item, found.now) > shown.gain(item, text) else text

    def search(self, text: str, item: int, shown: Shown, ctx: Context) -> Suffix:
        """The search before its first round.

        Raises:
            CannotActError: what is served is no such model, or its tokenizer is a slow one.
        """
        from bench.errors import CannotActError
        from bench.models.base import innermost
        from bench.text.gcg import Suffix, writable
        from bench.text.scorer import PointwiseRecommender

        model = innermost(shown._model)  # white-box: unlike others it may look inside
        if not isinstance(model, PointwiseRecommender):
            raise CannotActError(f"{self.name} needs a language model's gradient, and the model "
                                 f"as it is served ({type(model).__name__}) shows none")
        if not model.language.tokenizer.is_fast:
            raise CannotActError(f"{self.name} needs to know where tokens stand in a text, and the "
                                 f"tokenizer of {model.language.name} does not say so")
        able = shown.once("writable", lambda: writable(model.language))
        users = ctx.stream(self.name, "users").permutation(shown.users)[:self.prompts]
        return Suffix(model, item, text, users, self.tokens, able,
                      lambda changed: shown.allowed(item, changed))

    def comparable(self) -> str:
        return f"{super().comparable()}, a suffix of {self.tokens} tokens"

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"tokens": 2, "candidates": 12, "iterations": 4, "prompts": 2, "targets": 2}

"""P5-lite: recommendation as text-to-text, an item being the tokens of its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text.prompted import PromptedModel
from bench.text.tuning import WAYS, WHAT, Tuned

if TYPE_CHECKING:
    from bench.text.p5 import P5Recommender
    from bench.text.prompts import Prompt

MOST_RATINGS = 9


class P5(PromptedModel, Tuned):
    """A T5-type model learns one prompt family on train rows and the likes before them.

    P5 (Geng et al., "Recommendation as Language Processing", RecSys 2022), one family at a time:
    sequential: the answer is the next item's id, score = log p(id tokens), normalised at each
    token over what a trie of the catalogue's ids allows; direct-list: the same of a prompt that
    lists the candidates, in an order drawn per user; direct: shall we recommend this item, score
    = log P(yes) − log P(no); rating: score = the expected rating. Items are called item_n by
    their place in the catalogue, users user_n, so that ids tell nothing. Ids are scored exactly,
    each one's tokens fed in, or (`decode: beam`) found by a beam search that the trie of the
    candidates constrains: what it finds has the same scores, what it loses comes behind.

    Example: models: [{p5: {model: tiny-random, family: sequential, decode: beam, beams: 20}}]
    """

    name = "p5"
    family: str = param("sequential", "what is asked", choices=(
        "sequential", "direct", "direct-list", "rating"))
    show: str = param("both", "how items stand in a prompt: id, text, or both",
                      choices=("id", "text", "both"))
    constrained: bool = param(True, "ids: probabilities of tokens are among those that "
                              "continue an id of the catalogue; otherwise of the whole vocabulary")
    decode: str = param("exact", "ids: exact, every candidate's id is fed in; beam, a search "
                        "finds the best ones", choices=("exact", "beam"))
    beams: int = param(20, "beam: beginnings kept at each token, and most items found; those "
                       "that are not share the place behind", low=1)
    negatives: int = param(1, "direct: items sampled per row as disliked, where the data has no "
                           "disliked rows", low=1)
    shots: int = param(0, "train rows that are learned from, drawn by seed; 0: all", low=0)
    tune: str = param("full", WHAT, choices=WAYS)
    learning_rate: float = param(1e-3, "step size", above=0)
    batch_size: int = param(64, "examples per step", low=1)
    asks: ClassVar[str] = "seq2seq"

    @property
    def lists_candidates(self) -> bool:
        return self.family == "direct-list"
    roles: ClassVar[tuple[str, ...]] = ("seq2seq",)

    not_separable: ClassVar[str] = ("gradients of a language model are not taken user by user "
                                    "here, though its loss is a mean over rows")

    def _prompt_name(self) -> str:
        return self.prompt or f"p5-{self.family}"

    def the_prompt(self) -> Prompt:
        from bench.text.prompts import load
        from bench.text.templates import slots

        found = load(self._prompt_name(), self.asks)
        if ("items" in slots(found.candidate)) != (self.family == "direct-list"):
            raise InputError(f"prompt {self._prompt_name()!r} does not ask what family "
                             f"{self.family} asks", key="prompt", hint="{items} stands in the "
                             "candidate of direct-list, {item} in that of the others")
        return found

    def contents(self) -> tuple[str, ...]:
        from bench.text.prompted import LanguageModel
        from bench.text.prompts import content

        return (*LanguageModel.contents(self), content(self._prompt_name()),
                *self.retrieving().contents())

    @property
    def gives(self) -> frozenset[str]:
        given = {"prompts", "histories"} | ({"text"} if self.show != "id" else set())
        if self.tune != "none":
            given |= {"gradients"}
            given |= {"direct": {"dislikes"}, "rating": {"ratings"}}.get(self.family, set())
        return frozenset(given)

    def unfit(self, data: Dataset) -> str | None:
        if self.family == "direct-list" and self.candidates < 2:
            return "p5 lists its candidates with family direct-list: set candidates to 2 or more"
        if not self.history:
            return "p5 learns from histories: set history to 1 or more"
        if self.family == "rating":
            ratings = data.train.ratings
            if ratings is None:
                return f"{data.name} has no ratings"
            many = len(set(ratings.tolist()))
            if many > MOST_RATINGS:
                return f"{data.name} has {many} different ratings, of {MOST_RATINGS} one token each"
        return super().unfit(data)

    def build(self, data: Dataset, ctx: Context) -> P5Recommender:
        from bench.text.p5 import P5Recommender

        return P5Recommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 6, "history": 2, "dtype": "float32",
                "shots": 32, "epochs": 10, "batch_size": 32, "learning_rate": 0.01, "patience": 0}

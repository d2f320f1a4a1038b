"""The model reads every item text in several wordings, and most of them decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models.base import Recommender

TEMPLATES: tuple[Callable[[str], str], ...] = (
    lambda text: text, lambda text: f"This is {text}.", str.lower,
    lambda text: f"Title: {text}", lambda text: f"{text}, as listed in the catalogue",
    lambda text: f'An item called "{text}"', lambda text: f"On offer: {text}")
INSTRUCTIONS = (
    "Text: {text}\nThe same in other words:", "Text: {text}\nThe same, shorter:",
    "Text: {text}\nWhat this is, in one plain sentence:", "Text: {text}\nIts subject in few words:",
    "Text: {text}\nA neutral description without praise:", "Text: {text}\nAs a title:")


class ParaphraseVote(Defense):
    """Serves minus the median rank of an item over `paraphrases` wordings of all item texts.

    With an odd number of wordings, an item is in a list of k by its median rank exactly if most
    wordings put it there: an edit must work in most of them. The first wording is the text
    itself. The others are fixed templates around it ("Title: …", in lower case), or, where
    `writer` names a causal language model, what that writes to as many instructions (in other
    words, shorter, without praise), greedily and at most `longest` tokens. Paraphrase before
    answering: Jain et al., "Baseline Defenses for Adversarial Attacks Against Aligned Language
    Models", 2023, https://arxiv.org/abs/2309.00614, section 4.2; medians instead of one answer
    are ours.

    Templates keep every word of the text: they undo an edit only where the model reacts to the
    exact wording, and no appended praise. A writer may follow an instruction that stands in the
    text. The scores are ranks, not the model's. paraphrases 1: nothing happens. Cost: as many
    times the model's scores; with a writer one generation per text and wording. Adaptive attack:
    those on texts ask the vote.

    Example: defenses: [{paraphrase-vote: {paraphrases: [3, 5]}}]
    """

    name = "paraphrase-vote"
    paraphrases: int = param(3, "wordings that vote, the text itself among them; 1: none else",
                             choices=(1, 3, 5, 7))
    writer: str = param("", "causal language model that paraphrases: a hub name, a local folder, "
                        "or tiny-random; empty: templates")
    longest: int = param(40, "most tokens of a paraphrase that the writer writes", low=1)

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return contents(self.writer)

    def keyed(self) -> dict[str, Any]:
        from bench.text.language import unplaced

        return unplaced(super().keyed(), "writer")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return None if "text" in model.gives else f"{model.name} reads no texts of items"

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if self.paraphrases == 1:
            return model
        from bench.errors import CannotActError
        from bench.models.base import innermost
        from bench.text.reader import TextReader
        from bench.text.voting import Voted

        reader = innermost(model)
        if not isinstance(reader, TextReader):
            raise CannotActError(f"{self.name}: {type(reader).__name__} reads no texts of items")
        return Voted(model, reader, self.wordings(data, ctx))

    def unseen(self) -> str | None:
        return "the ranks by several wordings vote" if self.paraphrases > 1 else None

    def wordings(self, data: Dataset, ctx: Context) -> list[Callable[[str], str]]:
        """What is made of a text, once per vote; the first leaves it as it is."""
        if not self.writer:
            return list(TEMPLATES[:self.paraphrases])
        from bench.text.voting import Writer
        from bench.text_shown import language as load

        language = load(f"{self.name}: writer", self.writer, "causal", device=ctx.device,
                        dtype="float32", corpus=data.item_text or (),
                        seed=ctx.number("paraphrase-vote") % 2**31)
        return [TEMPLATES[0], *(Writer(language, said, self.longest)
                                for said in INSTRUCTIONS[:self.paraphrases - 1])]

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """Wordings, the share of the catalogue's own texts that each but the first changes, and
        how many are longer than the writer reads."""
        from bench.text.voting import Voted

        if not isinstance(model, Voted):
            return {}
        texts = list(model.data.item_text or ())
        made = [model.worded(texts, n) for n in range(self.paraphrases)]
        return {"wordings": self.paraphrases, "writer": self.writer or "templates",
                "clean_texts_changed": [sum(a != b for a, b in zip(texts, m, strict=True))
                                        / max(len(texts), 1) for m in made],
                "examples": [m[0] for m in made],
                "texts_cut": len(set().union(*(w.cut for w in model.writers)))}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"paraphrases": 1}

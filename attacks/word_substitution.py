"""Words replaced by others that a language model finds likely there, or near in meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, param
from bench.text_attack import TextAttack
from bench.text_edits import greedy
from bench.text_shown import Shown, language

if TYPE_CHECKING:
    from bench.text.language import Language


class WordSubstitution(TextAttack):
    """Replaces the words that matter most, by query: each by the candidate with which the
    attacker's users see the item most, or by none where no candidate helps.

    Words are ranked by what their deletion does for the attacker. Candidates, by `method`:

        masked      the `candidates` words that a masked language model ranks first at its place:
                    Li et al., "BERT-Attack" (EMNLP 2020), K = 48. As there the model reads the
                    word itself; one that its tokenizer splits is masked instead (there its parts
                    are replaced in all combinations).
        neighbours  the nearest words in the model's table of token vectors, of cosine at least
                    `near`: Jin et al., "Is BERT Really Robust?" (TextFooler, AAAI 2020), with
                    this table for their counter-fitted vectors, and without their tagger.

    The goal, to show an item more often, is that of Zhang et al., "Stealthy Attack on Large
    Language Model based Recommendation" (ACL 2024). Candidates are whole words of letters in the
    model's vocabulary; a capital stays a capital.

    Budget: `share` of the words and `edits` characters. Set `judge` and `similarity` (.8) to
    bound the change of meaning too: nothing else here keeps it.

    Errors: a model without a trained head for gaps (a sentence encoder) has no `masked`.

    Example: attacks: [{word-substitution: {writer: tiny-random, share: 0.4}}]
    """

    name = "word-substitution"
    writer: str = param("bert-base-uncased", "the language model that candidates are from: a hub "
                        "name, a local folder, or tiny-random")
    method: str = param("masked", "masked: likely at this place; neighbours: near in the table of "
                        "token vectors", choices=("masked", "neighbours"))
    candidates: int = param(48, "most candidates per word", low=1)
    near: float = param(0.6, "neighbours: lowest cosine of a word and its replacement", low=-1,
                        high=1)
    share: float = param(0.4, "most words changed, as a share of the words there were", low=0)
    tries: int = param(10, "words tried, the most important ones first", low=1)

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return (*super().contents(), *contents(self.writer))

    def comparable(self) -> str:
        near = f", neighbours of cosine {self.near:g}" if self.method == "neighbours" else ""
        return super().comparable() + near

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        likely: Callable[[list[str], int], list[str]]
        likely = shown.once("words", lambda: self._source(shown.texts, ctx))
        return greedy(text, item, shown, self.tries, lambda parts, at: [
            like(parts[at], w) for w in likely(parts, at)])

    def _source(self, corpus: list[str], ctx: Context) -> Callable[[list[str], int], list[str]]:
        """What gives the candidates of a word."""
        role = "masked" if self.method == "masked" else "encoder"
        found = language("writer", self.writer, role, device=ctx.device, dtype="float32",
                         corpus=corpus)
        return (Likely if role == "masked" else Neighbours)(found, self.candidates, self.near)

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"writer": "tiny-random", "candidates": 8}


def like(word: str, other: str) -> str:
    """The other word with this one's capitals."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def vocabulary(language: Language) -> dict[int, str]:
    """Tokens that are whole words of two letters or more, by id: those that begin with a space
    (GPT-, T5-types), or, in WordPiece, those that continue no other."""
    names = [str(t) for t in language.tokenizer.convert_ids_to_tokens(
        list(range(len(language.tokenizer))))]
    spaced = any(t[:1] in ("Ġ", "▁") for t in names)
    special = set(language.tokenizer.all_special_tokens)
    made = {n: (t[1:] if spaced else t) for n, t in enumerate(names)
            if t not in special and (not spaced or t[:1] in ("Ġ", "▁"))}
    return {n: w for n, w in made.items() if len(w) > 1 and w.isalpha()}


class Likely:
    """Words that a masked language model ranks first at the place of a word."""

    def __init__(self, language: Language, most: int, near: float) -> None:
        import torch

        self.language, self.most = language, most
        self.words = vocabulary(language)
        self.ids = torch.tensor(list(self.words), dtype=torch.long, device=language.device)

    def __call__(self, parts: list[str], at: int) -> list[str]:
        import torch

        lm = self.language
        before, after = lm.ids("".join(parts[:at]).rstrip()), lm.ids("".join(parts[at + 1:]))
        own = lm.ids(f" {parts[at]}" if at > 1 else parts[at])
        middle = own if len(own) == 1 else [lm.tokenizer.mask_token_id]
        room = lm.limit - len(lm.begin) - len(lm.end) - 1
        before = before[-room:]
        row = [*lm.begin, *before, *middle, *after[:room - len(before)], *lm.end]
        ids, mask = lm.batch([row])
        with torch.no_grad():
            logits = lm.module(input_ids=ids, attention_mask=mask).logits[
                0, len(lm.begin) + len(before)].float()  # (vocabulary,)
        order = logits[self.ids].argsort(descending=True, stable=True)
        found = (self.words[int(self.ids[n])] for n in order[:self.most + 1].tolist())
        return [w for w in found if w.lower() != parts[at].lower()][:self.most]


class Neighbours:
    """The nearest whole words in the table of token vectors; a word that the tokenizer splits is
    the mean of its parts."""

    def __init__(self, language: Language, most: int, near: float) -> None:
        import torch
        from torch.nn.functional import normalize

        self.language, self.most, self.near = language, most, near
        self.words = vocabulary(language)
        self.ids = torch.tensor(list(self.words), dtype=torch.long, device=language.device)
        self.table = normalize(language.embeddings().weight[self.ids].float(), dim=1)  # (w, d)

    def __call__(self, parts: list[str], at: int) -> list[str]:
        from torch.nn.functional import normalize

        own = self.language.ids(f" {parts[at]}")
        vector = self.language.embeddings().weight[own].float().mean(dim=0)
        cosine = self.table @ normalize(vector, dim=0)  # (w,)
        order = cosine.argsort(descending=True, stable=True)[:self.most + 1].tolist()
        found = [self.words[int(self.ids[n])] for n in order if cosine[n] >= self.near]
        return [w for w in found if w.lower() != parts[at].lower()][:self.most]

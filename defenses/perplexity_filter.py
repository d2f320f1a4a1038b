"""Item texts that a language model finds too odd lose their odd part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.text.language import Language

_EQUAL = 1 + 1e-5  # a text's perplexity depends in its last digits on the others in its batch
_SENTENCE = re.compile(r"(?<=[.!?;\n])\s+")


class PerplexityFilter(Defense):
    """A text whose perplexity under a causal language model exceeds a threshold is cut.

    Perplexity: exp of the mean negative log-probability of the text's tokens, after the model's
    begin token (Jain et al., "Baseline Defenses for Adversarial Attacks Against Aligned Language
    Models", 2023, https://arxiv.org/abs/2309.00614; Alon and Kamfonas, "Detecting Language Model
    Attacks with Perplexity", 2023). Threshold: `slack` times the `quantile` of the perplexities
    of the catalogue's texts at training; no label, no test row and no text written later enters. An
    attack that wrote texts before the training (backdoor-titles) moves the threshold and is
    judged by it: the report flags such a cell.

    What is above it is cut in parts: sentences, or, where there is one sentence, windows of
    `window` words. Again and again that part goes without which perplexity is lowest, until the
    rest is at or below the threshold; if nothing is left, the text becomes `neutral`. A text that
    passes stays as it is, and so does what this made: twice is once.

    The share of genuine texts that are cut is 1 − quantile by construction, and on the next
    texts of the same kind about that (the report has it on the catalogue, by popularity, and on
    halves held out from the threshold). Short titles have high and scattered perplexities: the
    filter sees gibberish in descriptions, and hardly any fluent word of praise. slack .inf:
    nothing happens. Cost: one pass per text, and one per part and cut. Adaptive attack: those on
    texts ask the model behind the filter; fluent rewriting by a language model.

    Example: defenses: [{perplexity-filter: {judge: tiny-random, quantile: 0.99}}]
    """

    name = "perplexity-filter"
    judge: str = param("", "causal language model that finds texts odd: a hub name, a local "
                       "folder, or tiny-random")
    quantile: float = param(0.99, "share of genuine texts that pass", above=0, high=1)
    slack: float = param(1.0, "factor on the threshold; .inf: every text passes", above=0)
    window: int = param(3, "words that are cut together where a text is one sentence", low=1)
    neutral: str = param("(no description)", "what stands in place of a text of which nothing "
                         "is left")

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return contents(self.judge)

    def keyed(self) -> dict[str, Any]:
        from bench.text.language import unplaced

        return unplaced(super().keyed(), "judge")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "text" not in model.gives:
            return f"{model.name} reads no texts of items"
        if not self.judge:
            return (f"no language model is named: {{{self.name}: {{judge: a hub name or a local "
                    "folder}}")
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        from bench.models.base import innermost
        from bench.text.reader import TextReader
        from bench.text_shown import language as load

        reader = innermost(model)
        if np.isfinite(self.slack) and isinstance(reader, TextReader):
            texts = list(data.item_text or ())
            language = load(f"{self.name}: judge", self.judge, "causal", device=ctx.device,
                            corpus=texts, dtype="float32",
                            seed=ctx.number("perplexity-filter") % 2**31)
            reader.filtered(Odd(self, language, texts))
        return model

    def unseen(self) -> None:
        return None  # it changes what the model inside reads, and attackers read it there

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """The threshold, and the share of the catalogue's own texts that are above it: of all,
        by popularity, and of halves that the threshold was not taken from; how many are longer
        than the judge reads, and were judged by their beginnings."""
        from bench.imbalance import labels
        from bench.models.base import innermost

        own = next((f for f in getattr(innermost(model), "filters", ()) if isinstance(f, Odd)),
                   None)
        if own is None:
            return {}
        above = own.odd(own.genuine)  # (n_items,)
        names, group = labels(model.data, "items", "popularity")
        return {"takes_for_genuine": "the texts of the training",
                "judge": self.judge, "threshold": own.threshold,
                "false_positives": float(above.mean()), "of": len(above), "texts_cut": own.cut,
                "false_positives_held_out": own.held_out(),
                "false_positives_by_popularity": {
                    n: float(above[group == g].mean()) for g, n in enumerate(names)
                    if (group == g).any()}}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"slack": float("inf")}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"judge": "tiny-random", "quantile": 0.9}


class Odd:
    """The filter: texts in, texts out.

    Args:
        hyper: quantile, slack, window, neutral text. language: causal.
        genuine: the catalogue's texts at training.
    """

    def __init__(self, hyper: PerplexityFilter, language: Language,
                 genuine: Sequence[str]) -> None:
        self.hyper, self.language = hyper, language
        self._known: dict[str, float] = {}
        tokenizer = language.tokenizer
        self._begin = language.begin or [int(tokenizer.eos_token_id or tokenizer.pad_token_id)]
        self._room = language.limit - len(self._begin)
        self._kept: dict[str, str] = {}
        self.cut = sum(len(language.ids(t)) > self._room for t in genuine)
        self.genuine = self.perplexities(genuine)  # (n_items,)
        self.threshold = self._threshold(self.genuine)

    def _threshold(self, found: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        """One of the perplexities found: at most 1 − quantile of them are above it."""
        if not len(found):
            return float("inf")
        return self.hyper.slack * float(np.quantile(found, self.hyper.quantile, method="higher"))

    def odd(self, found: np.ndarray[Any, np.dtype[np.float64]]
            ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which perplexities are above the threshold."""
        made: np.ndarray[Any, np.dtype[np.bool_]] = found > self.threshold * _EQUAL
        return made

    def held_out(self) -> float:
        """Share of texts above the threshold taken from the other half (every second item)."""
        halves = self.genuine[::2], self.genuine[1::2]
        above = [int((b > self._threshold(a) * _EQUAL).sum()) for a, b in (halves, halves[::-1])]
        return sum(above) / max(len(self.genuine), 1)

    def perplexities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(n,); of a text without tokens 1."""
        from bench.text.likelihood import log_likelihood

        if len(self._known) > 500_000:
            self._known.clear()
        own = self.language
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        rows = {t: own.ids(own.plain(t))[:self._room] for t in new}
        some = [t for t in new if rows[t]]
        self._known.update(dict.fromkeys(new, 1.0))
        if some:
            mean = log_likelihood(own, self._begin, [rows[t] for t in some], 16).double()
            self._known.update(zip(some, (-mean).exp().tolist(), strict=True))
        return np.array([self._known[t] for t in texts])

    def __call__(self, texts: Sequence[str]) -> list[str]:
        new = [t for t in dict.fromkeys(texts) if t not in self._kept]
        for text, odd in zip(new, self.odd(self.perplexities(new)), strict=True):
            self._kept[text] = self._cut(text) if odd and text != self.hyper.neutral else text
        return [self._kept[t] for t in texts]

    def _cut(self, text: str) -> str:
        parts = _SENTENCE.split(text)
        if len(parts) == 1:
            words, w = text.split(), self.hyper.window
            parts = [" ".join(words[n:n + w]) for n in range(0, len(words), w)]
        while len(parts) > 1:
            rests = [" ".join(parts[:n] + parts[n + 1:]) for n in range(len(parts))]
            found = self.perplexities(rests)
            best = int(found.argmin())
            del parts[best]
            if not self.odd(found)[best]:
                return rests[best]
        return self.hyper.neutral

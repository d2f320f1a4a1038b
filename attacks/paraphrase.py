"""The text of an item said otherwise: by templates, or by a language model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from bench.api import Context, Dataset, param
from bench.text_attack import TextAttack
from bench.text_shown import Shown, language

FRAMES = ("{}", "{}, a hit", "Popular: {}", "{}, much loved", "Loved by many: {}",
          "{}, a favourite of many", "A must-see for many: {}", "{} Everybody talks about it.",
          "One of the most popular of all: {}", "{} Those who like the classics like this too.")
PROMPT = ("Descriptions of popular items:\n{popular}\n\nThe next description says the same as the "
          "first one, in other words, and sounds as popular as those above.\nDescription: {text}\n"
          "In other words:")


class Paraphrase(TextAttack):
    """Says the text otherwise, in `candidates` ways, and takes the one with which the attacker's
    users see the item most, or leaves it where none helps.

    Without a `writer`, by templates: clauses change their order, lists are turned round, labels
    such as "Genres:" go, and frames are put around ("…, a favourite of many"). With one, a causal
    language model is shown the texts of popular items and asked for the same in other words.
    Either way a candidate counts if its length is at most `longest` times what it was and if it
    is within the bounds; the first `candidates` that do are tried. Zhang et al., "Stealthy Attack
    on Large Language Model based Recommendation" (ACL 2024), rewriting by GPT; here with an
    encoder as judge of the meaning in place of readers.

    Budget: cosine of at least `similarity` by the `judge`, length, and `edits` characters, wide
    by default since another order of clauses changes many.

    Example: attacks: [{paraphrase: {judge: tiny-random, candidates: 5}}]
    """

    name = "paraphrase"
    writer: str = param("", "causal language model that rewrites: a hub name, a local folder, or "
                        "tiny-random; empty: templates")
    candidates: int = param(5, "rewrites that are tried", low=1)
    longest: float = param(1.2, "greatest length, over the length there was", above=0)
    edits: int = param(1000, "most characters inserted, deleted or substituted", low=0)
    similarity: float = param(0.8, "lowest cosine between the vectors of both texts; -1: no bound",
                              low=-1, high=1)
    judge: str = param("sentence-transformers/all-MiniLM-L6-v2", "encoder that the similarity is "
                       "measured with: a hub name, a local folder, or tiny-random")

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return (*super().contents(), *contents(self.writer))

    def comparable(self) -> str:
        return f"{super().comparable()}, at most {self.longest:g} times as long"

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        said = by_templates(text, ctx.stream(self.name, item)) if not self.writer else \
            self.written(text, item, shown, data, ctx)
        able = [t for t in dict.fromkeys(said) if t != text and t.strip()
                and len(t) <= self.longest * len(text) and shown.allowed(item, t)]
        return shown.best(item, text, able[:self.candidates])

    def written(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context
                ) -> list[str]:
        """Rewrites by the language model: twice as many as are tried, sampled."""
        import torch

        lm = shown.once("writer", lambda: language("writer", self.writer, "causal",
                                                   device=ctx.device, corpus=shown.texts))
        best = np.argsort(-data.popularity, kind="stable")
        popular = "\n".join(f"- {shown.texts[i]}" for i in best[:6] if i != item)
        ids = lm.begin + lm.ids(PROMPT.replace("{popular}", popular).replace("{text}", text))
        room = min(2 * len(lm.ids(text)) + 8, lm.limit // 2)
        ids = ids[-(lm.limit - room):]
        row, mask = lm.batch([ids])
        with ctx.seeded(self.name, item), torch.no_grad():
            out = lm.module.generate(
                input_ids=row, attention_mask=mask, do_sample=True, top_p=0.95,
                num_return_sequences=2 * self.candidates, max_new_tokens=room,
                pad_token_id=lm.tokenizer.pad_token_id)
        said = lm.tokenizer.batch_decode(out[:, len(ids):], skip_special_tokens=True)
        return [(s.strip().split("\n") or [""])[0].strip().strip('"') for s in said]

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"judge": "tiny-random", "similarity": 0.5, "longest": 1.6}


def by_templates(text: str, rng: np.random.Generator) -> list[str]:
    """Rewrites of any text, each once, the order drawn: its clauses in other orders, its lists
    turned round, labels left out; each of these in every frame."""
    clauses = [c for c in re.split(r"(?<=[.;!?])\s+", text.strip()) if c]
    forms = [text.strip(), " ".join(reversed(clauses)),
             " ".join(clauses[1:] + clauses[:1]),
             " ".join(turned(c) for c in clauses),
             " ".join(re.sub(r"^\w+:\s+", "", c) for c in clauses),
             " ".join(turned(c) for c in reversed(clauses))]
    made = []
    for form in dict.fromkeys(forms):
        for frame in FRAMES:
            inside = form.rstrip(". ") if frame.startswith("{},") else form
            made.append(frame.format(inside) if frame != "{}" else form)
    kept = [t for t in dict.fromkeys(made) if t != text]
    return [kept[n] for n in rng.permutation(len(kept))]


def turned(clause: str) -> str:
    """A clause with its list turned round.

    >>> turned("Genres: Action, Comedy, Drama.")
    'Genres: Drama, Comedy, Action.'
    """
    label, inside, end = re.fullmatch(r"(\w+:\s+)?(.*?)([.;!?]*)", clause,
                                      re.DOTALL).groups(default="")  # type: ignore[union-attr]
    return label + ", ".join(reversed(inside.split(", "))) + end

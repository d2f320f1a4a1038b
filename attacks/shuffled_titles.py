"""Texts exchanged between items: a control that no adversary takes part in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Attack, Context, Dataset, ModelPlugin, Struck, ThreatModel, param

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.stages import Prepared


class ShuffledTitles(Attack):
    """Gives every item the text of another one, drawn by seed, while interactions stay. No
    adversary takes part: it is the control for what a model's accuracy comes from.

    A model that reads loses what texts say; one that goes by ids, by the retriever's order or by
    the places of candidates in a prompt stays as it was, and so does not read, whatever its
    accuracy. This also bounds what a language model knows of a data set by heart: a title that it
    saw beside others in pre-training now stands for an item with another history (CATALOGUE J19;
    after the permutation controls of Ojala and Garriga, "Permutation Tests for Studying
    Classifier Performance", JMLR 2010).

    retrained false: the trained model meets exchanged texts at test time, and all of reading is
    lost. true: it learns from exchanged texts; a model that takes texts for names of items learns
    the new names and is as good as before, and what is lost is what texts mean. alike n: texts
    are exchanged within n groups of equal size of about equal train popularity, so that titles
    stay as famous as their items are: what is lost beyond that is content.

    Bounds: all texts stay, each once; no item keeps its own, as every group has two items or
    more (`same_text` counts equal texts of different items). Retrievers that read texts read the
    exchanged ones too. Shapes: one text per item.

    Example: attacks: [{shuffled-titles: {retrained: [false, true]}}]
    """

    name = "shuffled-titles"
    retrained: bool = param(False, "whether the model learns from the exchanged texts, or meets "
                            "them at test time")
    alike: int = param(1, "groups of about equal train popularity that texts stay in", low=1)
    threat = ThreatModel("none", "none", "none", realisable=False)

    @property
    def trains(self) -> bool:
        return self.retrained

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "text" not in model.gives:
            return f"{model.name} reads no texts of items"
        if 2 * self.alike > data.n_items:
            return (f"{self.alike} groups of {data.n_items} items leave some alone with their own "
                    f"texts; alike: at most {data.n_items // 2}")
        return None

    def budget_text(self) -> str:
        within = f" within {self.alike} groups of equal popularity" if self.alike > 1 else ""
        when = ", learned from" if self.retrained else ""
        return f"none: a control, the texts of all items exchanged{within}{when}"

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        return data.replace(item_text=self.exchanged(data, ctx))

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        data = prepared.genuine
        made, own = self.exchanged(data, ctx), data.item_text or ()
        same = sum(a == b for a, b in zip(made, own, strict=True))
        facts = {"texts_exchanged": len(made), "same_text": same}
        with contextlib.ExitStack() as stack:
            if not self.retrained:  # otherwise they are the texts that it knows
                stack.enter_context(model.reading_texts(made))
            yield Struck(model, data, facts=facts)

    def exchanged(self, data: Dataset, ctx: Context) -> list[str]:
        """The texts of all items, each at another item of its group: one cycle per group, drawn
        uniformly among the cycles of its length."""
        made, own = list(data.item_text or ()), data.item_text or ()
        order = np.lexsort((np.arange(data.n_items), data.popularity))
        group = np.arange(data.n_items) * self.alike // max(data.n_items, 1)
        for which in range(self.alike):
            cycle = ctx.stream(self.name, which).permutation(order[group == which])
            for item, origin in zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True):
                made[item] = own[origin]
        return made

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"retrained": True}

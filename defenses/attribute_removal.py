"""User vectors from which a trained adversary cannot tell an attribute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.defense import no_tables
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.training import Loop


class AttributeRemoval(Defense):
    """Adversarial removal: min over f, max over D, of L(f(u)) − weight · Σ_a CE(D_a(f(u)), a).

    Bose and Hamilton, "Compositional Fairness Constraints for Graph Embeddings", ICML 2019; for
    recommenders Li et al., "Towards Personalized Fairness based on Causal Notion" (PFCN), SIGIR
    2021. A discriminator D_a per attribute learns to tell it from the vectors of the batch's users
    (each user once; `adversary_steps` of Adam per batch); the model then takes one step of its own
    optimiser on its loss minus the discriminators' cross-entropy. Filters, where asked for, stand
    between the learned vectors and their use: "combined" is the mean of one filter per attribute,
    "separate" one filter for the whole set, "none" moves the vectors themselves. A filter is
    x + MLP(x), zero at first, so that training begins where it would without. Of models with
    several user tables (NeuMF) each has its filter, and D reads all of them side by side.

    Without a filter each user's vector can be pushed off on its own, and ends as the mirror of
    what it said: a fresh probe then falls *below* chance, which is no absence either. Likewise a
    discriminator that is too slow is outrun, and the vectors tell more than before. `bounded`
    stops rewarding a cross-entropy above that of the class shares; the papers have no such bound.

    What is served, stored and attacked are the filtered vectors. Only those are freed: a bias per
    user, or what the lists themselves tell, are not. The best validation accuracy says nothing
    about what leaks, so the last epoch is kept, unless `early_stopping` is on.

    The report says what a fresh probe finds in the served vectors (5-fold logistic regression and
    a small network, never the discriminators trained here), beside the majority's share and the
    floor of permuted labels. Adaptive attack: exactly that probe, which is trained on the vectors
    as served. weight 0 equals `none` bit for bit. Users without the attribute are left as they are;
    injected ones have filled it in, and are read and freed as all others.

    Example: defenses: [{attribute-removal: {attributes: [gender], weight: 10, filters: none}}]
    """

    name = "attribute-removal"
    attributes: tuple[str, ...] = param(("gender",), "user attributes to remove")
    weight: float = param(1.0, "weight of the discriminators' cross-entropy (λ)", low=0)
    bounded: bool = param(True, "a cross-entropy above that of the class shares earns nothing")
    filters: str = param("combined", "what stands between learned and served vectors",
                         choices=("combined", "separate", "none"))
    hidden: tuple[int, ...] = param((128, 64), "widths of a discriminator's hidden layers")
    dropout: float = param(0.3, "dropout of a discriminator while it learns", low=0, high=0.9)
    adversary_steps: int = param(5, "steps of the discriminators per step of the model", low=1)
    adversary_rate: float = param(0.01, "learning rate of the discriminators", above=0, high=1e6)
    early_stopping: bool = param(False, "keep the epoch of the best validation accuracy, whatever "
                                 "it leaks; otherwise the last")

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise InputError("attributes names one or more attributes, each once",
                             key="attributes", hint="such as [gender, age]")
        if any(not 1 <= width <= 4096 for width in self.hidden):
            raise InputError("a hidden layer has between 1 and 4096 units, and hidden says "
                             f"{list(self.hidden)}", key="hidden", hint="such as [128, 64]; [] is "
                             "a linear discriminator")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.fairness import labels_of
        from bench.models.recbole import RecBoleModel

        missing = {"embeddings", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        if "histories" in model.gives or model.whole_histories:
            return f"{model.name} makes a user from a history, and has no vector to free"
        if "user" not in model.table_roles:
            return no_tables(model, "user")
        if isinstance(model, RecBoleModel) and "user-separable" not in model.gives:
            return (f"the served vectors of {model.name} mix those of several users (over a "
                    "graph, or in its loss), so that freeing a user's own row frees little")
        try:
            for attribute in self.attributes:
                labels_of(data, attribute)
        except InputError as error:
            return str(error)
        return None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.weight:
            return None
        from bench.adversary import Removal

        loop.early_stopping = loop.early_stopping and self.early_stopping
        return Removal(loop, attributes=self.attributes, weight=self.weight,
                       filters=self.filters, bounded=self.bounded, hidden=self.hidden,
                       dropout=self.dropout, steps=self.adversary_steps,
                       rate=self.adversary_rate).run_epoch

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """What fresh probes find in the vectors as they are served."""
        import torch

        from bench.adversary import user_vectors
        from bench.models.base import TorchRecommender, innermost
        from bench.probe import KINDS, attribute_labels, probe

        inner = innermost(model)
        assert isinstance(inner, TorchRecommender)  # `unfit` turned the others away
        found: dict[str, Any] = {}
        for attribute in self.attributes:
            users, labels = attribute_labels(inner.data, attribute)
            vectors = user_vectors(inner, torch.as_tensor(users, device=inner.ctx.device))
            for kind in KINDS:
                found[f"probe:{attribute}:{kind}"] = probe(
                    vectors.detach().cpu().numpy(), labels, inner.ctx, kind=kind,
                    name=f"probe {attribute}", permutations=10 if kind == "logistic" else 2,
                    draws=500).facts()
        return found

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"hidden": (16,), "adversary_steps": 2}

"""Models that RecBole trains in stages, and the vectors of a knowledge graph for those that
expect them ready-made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.context import Context
from bench.models._recbole_compat import Settings
from bench.models._recbole_data import ArrayDataset
from bench.models._recbole_model import RecBoleRecommender

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.training import FitResult, Progress

# (attribute, its values in order); the last stage is the one that is validated
_STAGES = {"S3Rec": ("train_stage", ("pretrain", "finetune")),
           "RaCT": ("train_stage", ("actor_pretrain", "critic_pretrain", "finetune")),
           "KD_DAGFM": ("phase", ("teacher_training", "distillation", "finetuning"))}


class StagedRecommender(RecBoleRecommender):
    """S3Rec, RaCT and KD_DAGFM: every stage on the same module, one after another.

    RecBole runs each stage by hand and passes checkpoints on as files. Early stages last
    `pretrain_epochs` and are not validated (KD_DAGFM has no such parameter: its early stages last
    `epochs`); a defense acts in the last stage alone, which is why these models do not offer
    their gradients to defenses and attacks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._enter(self._stages()[1][-1])

    def _stages(self) -> tuple[str, tuple[str, ...]]:
        return _STAGES[self.hyper.model]

    def _enter(self, stage: str) -> None:
        module = self.module
        setattr(module, self._stages()[0], stage)
        if self.hyper.model == "S3Rec":
            from recbole.model.loss import BPRLoss

            learned = BPRLoss() if self.hyper.loss_type == "BPR" else nn.CrossEntropyLoss()
            module.loss_fct = learned if stage == "finetune" \
                else nn.BCEWithLogitsLoss(reduction="none")
        elif self.hyper.model == "RaCT":
            critic = stage == "critic_pretrain"
            module.critic_net.requires_grad_(critic)
            module.encoder.requires_grad_(not critic)
            module.decoder.requires_grad_(not critic)
        elif self.hyper.model == "KD_DAGFM":
            module.teacher_network.requires_grad_(stage == "teacher_training")

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.api import Defense as NoHooks

        class Plain(NoHooks):
            """The hooks of no defense, for the stages before the last."""

        asked, seconds = self.hyper, 0.0
        early = getattr(asked, "pretrain_epochs", asked.epochs)
        for stage in self._stages()[1][:-1]:
            self._enter(stage)
            self.hyper = dataclasses.replace(asked, epochs=early, patience=0)
            seconds += super().fit(Plain(), progress).seconds
        self.hyper = asked
        self._enter(self._stages()[1][-1])
        result: FitResult = super().fit(defense, progress)
        result.seconds += seconds
        result.notes["epochs_before"] = early * (len(self._stages()[1]) - 1)
        return result

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self._enter(self._stages()[1][-1])


def translation_vectors(dataset: ArrayDataset, settings: Settings, ctx: Context,
                        epochs: int = 30) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Vectors of entities and relations by TransE (Bordes et al., NIPS 2013), learned from the
    dataset's own graph: "ent_id" (entities, width) and "rel_id" (relations, width).

    RecBole reads such vectors from files. Margin 1, L2 distance, entities of length one, a
    corrupted tail per triple, Adam 0.01, `epochs` passes.
    """
    from bench.models._recbole_batches import Sampler

    width = settings["kg_embedding_size"] or settings["embedding_size"]
    stream = ctx.torch_stream("transe")
    bound = 6 / width**0.5
    tables = [nn.Parameter((torch.rand(n, width, generator=stream) * 2 - 1) * bound)
              for n in (dataset.entity_num, dataset.relation_num)]
    entity, relation = (t.to(ctx.device).detach().requires_grad_() for t in tables)
    optimizer = torch.optim.Adam([entity, relation], lr=0.01)
    sampler = Sampler("pairs", None, dataset.data, ctx, dataset)
    for epoch in range(1, epochs + 1):
        for batch in sampler.triples(epoch, 4096):
            unit = nn.functional.normalize(entity, dim=1)
            moved = unit[batch["heads"]] + relation[batch["relations"]]  # (T, d)
            near = (moved - unit[batch["tails"]]).norm(dim=1)
            far = (moved - unit[batch["negative_tails"]]).norm(dim=1)
            optimizer.zero_grad()
            torch.relu(1 + near - far).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    vectors = nn.functional.normalize(entity.detach(), dim=1)
    vectors[0] = 0  # padding
    return {"ent_id": vectors.cpu().numpy(), "rel_id": relation.detach().cpu().numpy()}

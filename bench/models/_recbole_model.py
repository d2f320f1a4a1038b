"""A model of RecBole as one of ours: its loss on our batches, its scores in our order."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset, Ints
from bench.models import _recbole_histories as reads
from bench.models._recbole_batches import Sampler, Translator
from bench.models._recbole_compat import Settings, contained, quiet
from bench.models._recbole_data import ArrayDataset, Interaction
from bench.models._recbole_fixes import model_class
from bench.models._recbole_tables import copy_equal_buffers, places, share
from bench.models.base import Batch, Table, TorchRecommender

_CACHES = ("restore_user_e", "restore_item_e", "restore_entity_e", "i_embedding")
# How far a module has come in training (how much its KL term counts).
_COUNTERS = ("update", "update_count", "update_count_vae")
_COUNTED = "counted:"  # before their names in a state
_SUMS = ("CDAE", "ConvNCF", "ENMF", "SGL")  # their loss is a sum over the rows of a batch
# Learned by binary cross-entropy: what the scores are. Context models score by probability too.
_PROBABILITIES = ("DMF", "NeuMF", "NNCF", "DIN", "DIEN")
_LOGITS = ("FISM", "NAIS", "RippleNet")
_PAIRS = 1 << 16  # (user, item) pairs scored at once where a model scores pair by pair


class RecBoleRecommender(TorchRecommender):
    """See `bench.models.recbole`.

    Args:
        plugin: the parameters.
        known: the model's entry in `recbole_models.json`.
        settings: what RecBole's model reads as its configuration.
        data: the dataset; users and items keep their indices.
        ctx: seed and device.
    """

    hyper: Any  # the plugin has the model's own parameters too
    module: Any  # RecBole's classes are not typed

    def __init__(self, plugin: Any, known: Mapping[str, Any], settings: Settings, data: Dataset,
                 ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper, self.known, self.settings = plugin, known, settings
        kind = known["input"]
        if kind == "sequences" and getattr(plugin, "loss_type", "") == "BPR":
            kind = "sequences-pairs"
        self.dataset = ArrayDataset(settings, data, attributes=bool(known["attributes"]))
        self._prepare(settings)
        with contained():
            self.module = model_class(plugin.model, known["module"])(settings, self.dataset)
        self.module.to(ctx.device).eval()
        self.sampler = Sampler(kind, plugin, data, ctx, self.dataset)
        self.translate = Translator(self.dataset, ctx.device, known["family"] == "context",
                                    inverse=plugin.model == "SHAN")
        self._places = [p for p in places(self.module, self.dataset)
                        if p.key in known["tables"]]
        self.sums_loss = plugin.model in _SUMS
        self._epoch = 1 << 30
        self._encoder = True  # RecVAE: which half is learning
        self._pairwise = not _has_full_sort(self.module)
        self.settle()

    def _prepare(self, settings: Settings) -> None:
        """What a model reads from the dataset or settings beyond the ordinary."""
        if self.known["knowledge"] == "vectors":
            from bench.models._recbole_trainers import translation_vectors

            self.dataset._preloaded_weight.update(translation_vectors(
                self.dataset, settings, self.ctx))
        columns = [] if self.dataset.item_feat is None else [
            k for k in self.dataset.item_feat.interaction
            if k != self.dataset.iid_field and k not in settings["numerical_features"]]
        if "selected_features" in settings:
            asked = [f"item:{c}" for c in settings["selected_features"]]
            settings["selected_features"] = asked or columns
        if "item_attribute" in settings:
            asked = settings["item_attribute"]
            settings["item_attribute"] = f"item:{asked}" if asked else columns[0]

    # -- learning ------------------------------------------------------------------------------

    def loss(self, batch: Batch, delta: Mapping[str, Tensor] | None = None) -> Tensor:
        """See `TorchRecommender.loss`. What a module counts or draws along moves on in clean
        training steps alone: else a loss would depend on how often others asked for it."""
        own = vars(self.module)
        before = {k: own[k] for k in (*_COUNTERS, "random_pr") if k in own}
        if "random_list" in own:
            before["random_list"] = own["random_list"].copy()
        try:
            return super().loss(batch, delta)
        finally:
            if delta or not self.module.training:
                own.update(before)

    def batch_loss(self, batch: Batch) -> Tensor:
        columns = self.translate(batch)
        if "targets" in batch:  # every place of a history at once
            self.module.places = batch["targets"] >= 0  # (B, L)
            columns["item_id"] = batch["targets"][self.module.places] + 1  # (places,)
        try:
            losses = self._loss_function(batch)(Interaction(columns))
        finally:
            if "targets" in batch:
                self.module.places = None
        if isinstance(losses, tuple):
            losses = losses[:-1] if self._warming_up() else losses
            losses = sum(losses[1:], losses[0])
        loss: Tensor = losses if losses.ndim == 0 else losses.sum()
        return loss

    def _loss_function(self, batch: Batch) -> Any:
        module = self.module
        if "heads" in batch and not len(batch["users"]):
            return module.calculate_kg_loss
        if self.hyper.model == "MKR":
            return module.calculate_rs_loss
        if self.hyper.model == "RecVAE":
            return lambda rows: module.calculate_loss(rows, encoder_flag=self._encoder)
        return module.calculate_loss

    def _warming_up(self) -> bool:
        """NCL learns without its last loss, that of the prototypes, for `warm_up_step` epochs."""
        return self._epoch <= getattr(self.hyper, "warm_up_step", 0)

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        self._epoch = epoch
        if source == "train" and self.hyper.model == "RecVAE":
            yield from self._encoder_then_decoder(epoch, size)
            return
        if source == "train" and hasattr(self.module, "e_step") and \
                (epoch - 1) % self.hyper.m_step == 0:
            self._reseeded()
        mode = self.known["knowledge"]
        if mode == "alternating" and source == "train" and epoch and self._triples_turn(epoch):
            yield from self._triples_alone(epoch, size)
            return
        rows = self.sampler.batches(epoch, size, source)
        if mode == "joint":
            yield from self._joined_with_triples(rows, epoch, size)
            return
        for batch in rows:
            if self.hyper.model == "DIEN":
                batch = self.sampler.with_negative_histories(batch, epoch, source)
            elif self.hyper.model == "BERT4Rec":
                batch = self.sampler.with_masks(batch, epoch)
                if not (batch["mask_at"] > 0).any():
                    continue  # nothing hidden: RecBole would divide by zero
            elif self.hyper.model == "SimpleX" and self.sampler.negatives > 1:
                batch = self._by_negative(batch)
            yield batch
        if mode == "after" and source == "train" and \
                epoch % getattr(self.hyper, "kge_interval", 1) == 0:
            yield from self._triples_alone(epoch, size)
        if source == "train":
            self._after_epoch()

    def _triples_turn(self, epoch: int) -> bool:
        rec, kg = self.hyper.train_rec_step, self.hyper.train_kg_step
        return bool((epoch - 1) % (rec + kg) >= rec)

    def _triples_alone(self, epoch: int, size: int) -> Iterator[Batch]:
        nobody = torch.empty(0, dtype=torch.long, device=self.ctx.device)
        for triples in self.sampler.triples(epoch, size):
            yield {"users": nobody, **triples}

    def _joined_with_triples(self, rows: Iterator[dict[str, Tensor]], epoch: int,
                             size: int) -> Iterator[Batch]:
        """Each batch with a batch of triples beside it, from the start again when they end."""
        rounds = (self.sampler.triples(epoch * 1000 + k, size) for k in itertools.count())
        yield from ({**batch, **triples} for batch, triples in
                    zip(rows, itertools.chain.from_iterable(rounds), strict=False))

    def _by_negative(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """SimpleX reads all rows with their first negative, then all with their second, …"""
        count = self.sampler.negatives
        return {k: v.reshape(-1, count).T.flatten() for k, v in batch.items()}

    def _encoder_then_decoder(self, epoch: int, size: int) -> Iterator[Batch]:
        """RecVAE's alternation: encoder epochs, the prior renewed, decoder epochs."""
        module = self.module
        halves = ((True, module.decoder, self.hyper.n_enc_epochs),
                  (False, module.encoder, self.hyper.n_dec_epochs))
        for self._encoder, resting, rounds in halves:
            resting.requires_grad_(False)
            try:
                for k in range(rounds):
                    yield from self.sampler.batches(epoch * 100 + k, size, "train")
            finally:
                resting.requires_grad_(True)
            if self._encoder:
                module.update_prior()

    # -- what a module computes from its parameters ----------------------------------------------

    def forget(self) -> None:
        known = vars(self.module)
        for name in _CACHES:
            if known.get(name) is not None:
                setattr(self.module, name, None)

    def _after_epoch(self) -> None:
        if hasattr(self.module, "update_attentive_A"):  # KGAT: attention by the new vectors
            with torch.no_grad(), quiet():
                self.module.update_attentive_A()

    def _reseeded(self) -> None:
        with self.ctx.seeded("e-step"), quiet():
            self.module.e_step()

    def settle(self) -> None:
        """Make what hangs on the parameters fit them, in the same way after training as after
        loading: KGAT's attention, NCL's prototypes, SGL's dropped edges, LINE's contexts."""
        self.forget()
        self._after_epoch()
        if hasattr(self.module, "e_step"):
            self._reseeded()
        if hasattr(self.module, "random_list"):  # LINE: users in a random order, as contexts
            self.module.random_list = np.arange(1, self.data.n_users + 1)
            self.ctx.stream("contexts").shuffle(self.module.random_list)
            self.module.random_pr = 0
        if hasattr(self.module, "graph_construction"):
            with self.ctx.seeded("views"), quiet():
                self.module.graph_construction()

    def fit(self, defense: Any, progress: Any) -> Any:
        with quiet():
            result = super().fit(defense, progress)
        self.settle()
        return result

    def state(self) -> dict[str, Tensor]:
        own = vars(self.module)
        return super().state() | {f"{_COUNTED}{k}": torch.tensor(own[k])
                                  for k in _COUNTERS if k in own}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state({k: v for k, v in state.items() if not k.startswith(_COUNTED)})
        for name, value in state.items():
            if name.startswith(_COUNTED):
                setattr(self.module, name.removeprefix(_COUNTED), int(value))
        self.settle()

    def share_initialisation(self, clean: TorchRecommender) -> None:
        share(self.module, clean.module)
        copy_equal_buffers(self.module, clean.module)
        self.settle()

    # -- what attacks touch --------------------------------------------------------------------

    def tables(self) -> dict[str, Table]:
        weights = {p.parameter: self.module.get_parameter(p.parameter) for p in self._places}
        return {p.key: Table(p.parameter, weights[p.parameter], p.start, p.stop, p.role)
                for p in self._places}

    # -- histories -----------------------------------------------------------------------------

    def histories(self) -> list[Ints]:
        return reads.histories(self)

    def reading(self, histories: Sequence[Ints]) -> contextlib.AbstractContextManager[None]:
        return reads.reading(self, histories)

    def history_table(self) -> Table:
        return reads.history_table(self)

    def looking_up(self, items: Tensor, vectors: Tensor
                   ) -> contextlib.AbstractContextManager[None]:
        return reads.looking_up(self, items, vectors)

    def history_scores(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        if self._pairwise or not self.is_sequential:
            return super().history_scores(users, items, lengths)
        with quiet(), reads.differentiable(self):
            return self._all_items(self._asked(users, items, lengths))

    @property
    def is_sequential(self) -> bool:
        """Whether histories are read in their order."""
        return bool(self.known["input"].startswith("sequences"))

    # -- scoring -------------------------------------------------------------------------------

    @property
    def score_kind(self) -> str:
        """What pointwise metrics may take a score for: "probability", "logit" or "other"."""
        if self.known["family"] == "context" or self.hyper.model in _PROBABILITIES:
            return "probability"
        return "logit" if self.hyper.model in _LOGITS else "other"

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        batch = self._query(users, split)
        with quiet():
            return self._scores_by_pair(batch) if self._pairwise else self._all_items(batch)

    def _all_items(self, batch: Batch) -> Tensor:
        scores: Tensor = self.module.full_sort_predict(Interaction(self.translate(batch)))
        # (B, n_items + 1), or + 2 with a mask token
        scores = scores.reshape(len(batch["users"]), -1)
        return scores[:, 1:self.data.n_items + 1].float()  # (B, n_items)

    def _query(self, users: Tensor, split: str) -> dict[str, Tensor]:
        if self.is_sequential:
            return self._asked(users, *self.sampler.sequences.histories(users, split))
        return {"users": users}

    def _asked(self, users: Tensor, history: Tensor, length: Tensor) -> dict[str, Tensor]:
        batch = {"users": users, "histories": history, "lengths": length.clamp_min(1)}
        if self.hyper.model in ("GRU4RecCPR", "SASRecCPR"):  # they compute a loss on the way
            batch["items"] = torch.zeros_like(users)
        if self.hyper.model == "DIEN":  # only its auxiliary loss, not the score, reads them
            batch["negative_histories"] = history
        return batch

    def _scores_by_pair(self, batch: dict[str, Tensor]) -> Tensor:
        n_items, users = self.data.n_items, batch["users"]
        most = _PAIRS // (self.hyper.max_length if "histories" in batch else 1)
        items = torch.arange(n_items, device=users.device)
        flat = torch.empty(len(users) * n_items, device=users.device)
        module = self.module
        for start in range(0, len(flat), most):
            at = torch.arange(start, min(start + most, len(flat)), device=users.device)
            who = at // n_items
            pairs = {k: v[who] for k, v in batch.items()} | {"items": items[at % n_items]}
            flat[at] = module.predict(Interaction(self.translate(pairs))).reshape(-1).float()
        return flat.reshape(len(users), n_items)


def _has_full_sort(module: Any) -> bool:
    from recbole.model.abstract_recommender import AbstractRecommender

    return type(module).full_sort_predict is not AbstractRecommender.full_sort_predict

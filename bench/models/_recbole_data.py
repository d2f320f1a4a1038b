"""RecBole's Dataset made of our arrays: no files, no renumbering.

RecBole's index of a user or an item is ours plus one, as its 0 is padding. Injected users come
last here as there, so no real id moves.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.models._recbole_compat import Settings, contained

with contained():
    from recbole.data.dataset import KnowledgeBasedDataset
    from recbole.data.interaction import Interaction
    from recbole.utils import FeatureSource, FeatureType, ModelType

__all__ = ["ArrayDataset", "Interaction"]

_PAD = "[PAD]"


class ArrayDataset(KnowledgeBasedDataset):  # type: ignore[misc]
    """The train positives, attributes and knowledge graph of a dataset, as RecBole sees them.

    Args:
        settings: the model's settings; `numerical_features` is filled with the float columns.
        data: our dataset.
        attributes: whether attributes of users and items become fields.
    """

    def __init__(self, settings: Settings, data: Dataset, attributes: bool) -> None:
        self.config, self.data = settings, data
        self.dataset_name, self.dataset_path = data.name, ""
        self.logger = logging.getLogger("recbole")
        self.field2type: dict[str, Any] = {}
        self.field2source: dict[str, Any] = {}
        self.field2id_token: dict[str, Any] = {}
        self.field2token_id: dict[str, Any] = {}
        self.field2bucketnum: dict[str, int] = {}
        self.field2seqlen: dict[str, int] = {}
        self._preloaded_weight: dict[str, Any] = {}
        self._get_field_from_config()
        self._tokens(self.uid_field, FeatureSource.USER_ID, data.user_ids)
        self._tokens(self.iid_field, FeatureSource.ITEM_ID, data.item_ids)
        # sequential models ask for the width of a history before there is one
        self.field2seqlen[self.iid_field + settings["LIST_SUFFIX"]] = \
            settings["MAX_ITEM_LIST_LENGTH"]
        self.inter_feat = Interaction(self._rows())
        self.user_feat = self.item_feat = None
        if attributes:
            self.user_feat = self._features(self.uid_field, data.n_users, data.all_attributes,
                                            FeatureSource.USER)
            self.item_feat = self._features(self.iid_field, data.n_items, data.item_attributes,
                                            FeatureSource.ITEM)
        if data.knowledge is not None:
            self._knowledge()

    def _tokens(self, field: str, source: FeatureSource, ids: tuple[str, ...]) -> None:
        names = np.array([_PAD, *ids], object)
        self.set_field_property(field, FeatureType.TOKEN, source, 1)
        self.field2id_token[field] = names
        self.field2token_id[field] = {token: k for k, token in enumerate(names)}

    def _rows(self) -> dict[str, Tensor]:
        rows = self.data.train.positives()
        columns = {self.uid_field: torch.as_tensor(rows.users + 1),
                   self.iid_field: torch.as_tensor(rows.items + 1)}
        if self.config["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.SEQUENTIAL):
            return columns  # there, every field of a row would become an input
        for field, values in ((self.config["RATING_FIELD"], rows.ratings),
                              (self.time_field, rows.times)):
            if values is not None:
                self.set_field_property(field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
                columns[field] = torch.as_tensor(values, dtype=torch.float32)
        return columns

    # -- attributes ------------------------------------------------------------------------

    def _features(self, id_field: str, n: int, columns: Any, source: FeatureSource) -> Interaction:
        """One row per user or item, row 0 for padding: (n + 1, …)."""
        feature = {id_field: torch.arange(n + 1)}
        for name, column in columns.items():
            field = f"{source.value}:{name}"
            padded: npt.NDArray[Any]
            if column.dtype != object:
                padded = self._float(field, column.astype(np.float64), n, source)
            elif any(isinstance(value, tuple) for value in column):
                padded = self._token_seq(field, column, n, source)
            else:
                padded = self._token(field, column, n, source)
            feature[field] = torch.as_tensor(padded)
        return Interaction(feature)

    def _float(self, field: str, column: Any, n: int, source: FeatureSource) -> Any:
        """A number as RecBole embeds it: (value scaled to 0…1, 1), or (0, 0) where missing."""
        known = np.isfinite(column)
        low, high = (column[known].min(), column[known].max()) if known.any() else (0.0, 1.0)
        scaled = np.zeros((n + 1, 2), np.float32)
        scaled[1:len(column) + 1][known] = np.stack(
            [(column[known] - low) / max(high - low, 1e-12), np.ones(known.sum())], axis=1)
        self.set_field_property(field, FeatureType.FLOAT, source, 1)
        self.field2bucketnum[field] = 2
        self.config["numerical_features"].append(field)
        return scaled

    def _vocabulary(self, field: str, kind: FeatureType, source: FeatureSource,
                    values: Any) -> dict[str, int]:
        names = sorted({str(v) for v in values if v not in ("", None)})
        self._tokens(field, source, tuple(names))
        self.field2type[field] = kind
        return dict(self.field2token_id[field])

    def _token(self, field: str, column: Any, n: int, source: FeatureSource) -> Any:
        number = self._vocabulary(field, FeatureType.TOKEN, source, column)
        padded = np.zeros(n + 1, np.int64)
        padded[1:len(column) + 1] = [number.get(str(v), 0) if v else 0 for v in column]
        return padded

    def _token_seq(self, field: str, column: Any, n: int, source: FeatureSource) -> Any:
        column = [v or () for v in column]
        number = self._vocabulary(field, FeatureType.TOKEN_SEQ, source,
                                  (x for v in column for x in v))
        width = max([1, *(len(v) for v in column)])
        self.field2seqlen[field] = width
        padded = np.zeros((n + 1, width), np.int64)
        for k, values in enumerate(column, start=1):
            padded[k, :len(values)] = [number.get(str(v), 0) for v in values]
        return padded

    # -- knowledge -------------------------------------------------------------------------

    def _knowledge(self) -> None:
        """Entities share the numbers of the items they are; all others follow the items."""
        graph = self.data.knowledge
        assert graph is not None
        item_number = {item: k for k, item in enumerate(self.data.item_ids, start=1)}
        entity: dict[str, int] = {}
        for item, name in graph.item_entities.items():
            if item in item_number:
                entity.setdefault(name, item_number[item])
        names = list(self.field2id_token[self.iid_field])
        for name in dict.fromkeys([*graph.heads, *graph.tails]):
            if name not in entity:
                entity[name] = len(names)
                names.append(name)
        for field in (self.entity_field, self.head_entity_field, self.tail_entity_field):
            self._tokens(field, FeatureSource.KG, tuple(names[1:]))
        relations = dict.fromkeys(graph.relations)
        self._tokens(self.relation_field, FeatureSource.KG, (*relations, "[UI-Relation]"))
        number = self.field2token_id[self.relation_field]
        self.kg_feat = Interaction({
            self.head_entity_field: torch.tensor([entity[h] for h in graph.heads]),
            self.relation_field: torch.tensor([number[r] for r in graph.relations]),
            self.tail_entity_field: torch.tensor([entity[t] for t in graph.tails])})

    def ckg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        """The graph of interactions and triples; where dgl is asked for, nothing (see KGAT in
        `_recbole_fixes`, which needs no dgl)."""
        return None if form == "dgl" else super().ckg_graph(form, value_field)

    # -- faster than RecBole's loop over rows --------------------------------------------------

    def _history_matrix(self, row: str, value_field: str | None = None,
                        max_history_len: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What each user (or item) has, padded by 0: ids and values (rows, H), lengths (rows,).

        RecBole shuffles first; here the newest stand at the end and are the ones that are kept.
        """
        users, items = (self.inter_feat[f].numpy() for f in (self.uid_field, self.iid_field))
        own, other = (users, items) if row == "user" else (items, users)
        size = self.user_num if row == "user" else self.item_num
        values = np.ones(len(own), np.float32) if value_field is None \
            else self.inter_feat[value_field].numpy()
        times = self.inter_feat[self.time_field].numpy() if self.time_field in self.inter_feat \
            else np.zeros(len(own))
        order = np.lexsort((np.arange(len(own)), times, own))
        own, other, values = own[order], other[order], values[order]
        counts: Ints = np.bincount(own, minlength=size)
        width = int(max(counts.max(), 1))
        kept = counts if max_history_len is None else np.minimum(counts, max_history_len)
        width = int(min(width, max(int(kept.max()), 1)))
        ends = np.cumsum(counts)
        column = np.arange(len(own)) - (ends - kept)[own]
        inside = column >= 0
        ids, worth = np.zeros((size, width), np.int64), np.zeros((size, width), np.float32)
        ids[own[inside], column[inside]] = other[inside]
        worth[own[inside], column[inside]] = values[inside]
        return torch.as_tensor(ids), torch.as_tensor(worth), torch.as_tensor(kept)

"""Models of RecBole that need a correction to run, to be reproducible or to be fast enough.

Each correction says what it changes. Where nothing is said, results are RecBole's own.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.models._recbole_compat import (
    Settings,
    contained,
    scatter_mean,
    scatter_softmax,
    standing_in,
)


def model_class(name: str, module: str) -> type[nn.Module]:
    """RecBole's class, corrected where it must be."""
    with contained():
        original: type[nn.Module] = getattr(importlib.import_module(module), name)
    make = _CORRECTED.get(name)
    return make(original) if make else original


def _kgat(original: Any) -> type[nn.Module]:
    class KGAT(original):  # type: ignore[misc]
        """The initial attention without dgl: each relation's adjacency, rows summing to one."""

        def init_graph(self) -> Tensor:
            rows, columns, values = [], [], []
            n = self.n_users + self.n_entities
            for relation in range(1, self.n_relations):
                of_it = self.all_rs == relation
                heads, tails = self.all_hs[of_it], self.all_ts[of_it]
                degree = torch.bincount(heads, minlength=n).clamp_min(1)
                rows.append(heads)
                columns.append(tails)
                values.append(1.0 / degree[heads])
            index = torch.stack([torch.cat(rows), torch.cat(columns)])
            return torch.sparse_coo_tensor(index, torch.cat(values).float(),
                                           (n, n)).coalesce().to(self.device)

    return KGAT


def _whole_graph(original: Any) -> type[nn.Module]:
    class WholeGraph(original):  # type: ignore[misc]
        """Runs without the package torch_scatter, and scores with the whole graph: RecBole drops
        edges at random in evaluation too, so that scoring twice gives two answers."""

        def train(self, mode: bool = True) -> Any:
            for part in self.modules():
                if "node_dropout_rate" in vars(part):
                    asked = vars(part).setdefault("asked_rate", part.node_dropout_rate)
                    part.node_dropout_rate = asked if mode else 0.0
            return super().train(mode)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with standing_in("torch_scatter", scatter_mean=scatter_mean,
                             scatter_softmax=scatter_softmax):
                return super().forward(*args, **kwargs)

    WholeGraph.__name__ = original.__name__
    return WholeGraph


def _ktup(original: Any) -> type[nn.Module]:
    class KTUP(original):  # type: ignore[misc]
        """No Gumbel noise in evaluation, where RecBole draws it too: the likeliest preference."""

        def st_gumbel_softmax(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
            if self.training:
                drawn: Tensor = super().st_gumbel_softmax(logits, temperature)
                return drawn
            soft = (logits / temperature).softmax(dim=-1)
            hard = nn.functional.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
            return (hard - soft).detach() + soft

    return KTUP


def _dgcf(original: Any) -> type[nn.Module]:
    class DGCF(original):  # type: ignore[misc]
        """Draws no more users or items for its correlation loss than there are."""

        cor_batch_size: int

        def __init__(self, config: Settings, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.cor_batch_size = min(self.cor_batch_size, self.n_users, self.n_items)

    return DGCF


def _ract(original: Any) -> type[nn.Module]:
    class RaCT(original):  # type: ignore[misc]
        """The critic's NDCG is cut at the number of items at most."""

        metrics_k: int

        def __init__(self, config: Settings, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.metrics_k = min(self.metrics_k, self.n_items)

    return RaCT


def _fwfm(original: Any) -> type[nn.Module]:
    class FwFM(original):  # type: ignore[misc]
        """The weights of field pairs are learned, as in the paper; RecBole draws them at random
        and never registers them as a parameter."""

        def __init__(self, config: Settings, dataset: Any) -> None:
            super().__init__(config, dataset)
            drawn: Tensor = object.__getattribute__(self, "weight")
            object.__delattr__(self, "weight")
            self.register_parameter("weight", nn.Parameter(drawn.detach()))

    return FwFM


def _fism(original: Any) -> type[nn.Module]:
    class FISM(original):  # type: ignore[misc]
        """Same scores; the history is summed before the product with the item instead of after,
        which needs no (rows × longest history × width) block."""

        def __init__(self, config: Settings, dataset: Any) -> None:
            super().__init__(config, dataset)
            users = torch.arange(self.n_users, device=self.device)[:, None]
            at = self.mask_mat > 0
            index = torch.stack([users.expand_as(self.history_item_matrix)[at],
                                 self.history_item_matrix[at]])
            self.taken = torch.sparse_coo_tensor(
                index, torch.ones(index.shape[1], device=self.device),
                (self.n_users, self.n_items)).coalesce()

        def _history(self, user: Tensor) -> Tensor:
            total: Tensor = torch.sparse.mm(self.taken, self.item_src_embedding.weight)[user]
            scale = self.history_lens[user].clamp_min(1).float().pow(-self.alpha)
            pooled: Tensor = total * scale[:, None]  # (B, d)
            return pooled

        def inter_forward(self, user: Tensor, item: Tensor) -> Tensor:
            margin = (self._history(user) * self.item_dst_embedding(item)).sum(dim=1)
            return torch.sigmoid(margin + self.user_bias[user] + self.item_bias[item])

        def full_sort_predict(self, interaction: Any) -> Tensor:
            user = interaction[self.USER_ID]
            margin = self._history(user) @ self.item_dst_embedding.weight.T  # (B, items)
            scores: Tensor = margin + self.user_bias[user][:, None] + self.item_bias
            return scores

    return FISM


def _fearec(original: Any) -> type[nn.Module]:
    class FEARec(original):  # type: ignore[misc]
        """Without contrast (RecBole's default) the plain loss, and no search for users with the
        same target, whose result RecBole then throws away (quadratic in the rows)."""

        def get_same_item_index(self, dataset: Any) -> dict[int, Any]:
            return {}

        def calculate_loss(self, interaction: Any) -> Tensor:
            output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            positive = interaction[self.POS_ITEM_ID]
            if self.loss_type == "BPR":
                pair = [(output * self.item_embedding(i)).sum(dim=-1)
                        for i in (positive, interaction[self.NEG_ITEM_ID])]
                loss: Tensor = self.loss_fct(*pair)
                return loss
            loss = self.loss_fct(output @ self.item_embedding.weight.T, positive)
            return loss

    return FEARec


def _ncl(original: Any) -> type[nn.Module]:
    class NCL(original):  # type: ignore[misc]
        """At most a tenth as many clusters as there are points, as k-means needs points."""

        def run_kmeans(self, x: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
            import faiss

            kmeans = faiss.Kmeans(d=x.shape[1], k=max(1, min(self.k, len(x) // 10)), seed=1234,
                                  min_points_per_centroid=1)
            kmeans.train(x)
            _, nearest = kmeans.index.search(x, 1)
            centroids = torch.as_tensor(kmeans.centroids, device=self.device)
            return nn.functional.normalize(centroids, p=2, dim=1), torch.as_tensor(
                nearest[:, 0], device=self.device)

    return NCL


def _gru4rec_cpr(original: Any) -> type[nn.Module]:
    class GRU4RecCPR(original):  # type: ignore[misc]
        """The shared output layer is registered once: functional_call leaves a module that has
        one part under two names broken."""

        def __init__(self, config: Settings, dataset: Any) -> None:
            super().__init__(config, dataset)
            if self.out_item_embedding is self.item_embedding:
                del self.out_item_embedding
                object.__setattr__(self, "out_item_embedding", self.item_embedding)

    return GRU4RecCPR


def _causal(original: Any) -> type[nn.Module]:
    class Causal(original):  # type: ignore[misc]
        """Can learn from every place of a history at once: what stands at a place depends on
        what is before it alone, so one pass gives the output of every prefix.

        `places` (B, L) says at which places there is something to predict; None: at the last.
        """

        places: Tensor | None = None

        def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
            if self.places is not None:
                return output[self.places]  # (places, d)
            last: Tensor = super().gather_indexes(output, gather_index)
            return last  # (B, d)

    Causal.__name__ = original.__name__
    return Causal


_CORRECTED = {**dict.fromkeys(("SASRec", "SASRecF", "FDSA", "GRU4Rec", "GRU4RecF", "GRU4RecKG"),
                              _causal),
              "DGCF": _dgcf, "FEARec": _fearec, "FISM": _fism, "FwFM": _fwfm,
              "GRU4RecCPR": _gru4rec_cpr, "KGAT": _kgat, "KGIN": _whole_graph, "KTUP": _ktup,
              "MCCLK": _whole_graph, "NCL": _ncl, "RaCT": _ract}

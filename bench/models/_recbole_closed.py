"""RecBole's models without gradient training: computed from the data at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset, Ints
from bench.models._recbole_compat import Settings, contained
from bench.models._recbole_data import ArrayDataset
from bench.models._recbole_fixes import model_class
from bench.models.base import Recommender

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.training import FitResult, Progress

_LEARNED = ("pred_mat", "item_similarity", "item_means", "user_embeddings", "item_embeddings",
            "item_cnt")


class ClosedRecommender(Recommender):
    """Scores from arrays that RecBole's class computes when it is made.

    pred_mat (KNN): the scores. item_similarity (EASE, SLIM): scores X W of a user's row X.
    user_embeddings, item_embeddings (NCEPLRec): their product. item_cnt (Pop): popularity.
    Random draws a score per item and is the same for every user, as in RecBole.
    """

    def __init__(self, plugin: Any, known: Mapping[str, Any], settings: Settings, data: Dataset,
                 ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper, self.known, self.settings = plugin, known, settings
        self.learned: dict[str, Any] = {}
        rows = data.train.positives()
        self._taken = self._rows(rows.users, rows.items)

    def _rows(self, users: Ints, items: Ints) -> Any:
        """What each user took, (users, items) sparse; a repeated row counts twice."""
        from scipy.sparse import csr_matrix

        return csr_matrix((np.ones(len(users), np.float32), (users, items)),
                          shape=(self.data.n_users, self.data.n_items))

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        if self.hyper.model == "Random":
            drawn = torch.rand(self.data.n_items, generator=self.ctx.torch_stream("random"))
            self.learned = {"item_cnt": drawn.numpy()}
            return FitResult()
        if self.hyper.model == "Pop":  # RecBole counts an item once per batch, not once per row
            counts = np.bincount(self.data.train.positives().items, minlength=self.data.n_items)
            self.learned = {"item_cnt": counts.astype(np.float32)}
            return FitResult()
        with contained(), self.ctx.seeded("train"):
            model: Any = model_class(self.hyper.model, self.known["module"])(
                self.settings, ArrayDataset(self.settings, self.data, attributes=False))
        self.learned = {k: _without_padding(k, _plain(vars(model)[k])) for k in _LEARNED
                        if vars(model).get(k) is not None}
        return FitResult()

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        who, found = users.cpu().numpy(), self.learned
        if "item_similarity" in found:
            taken = self._taken[who]
            if self.hyper.model == "ADMMSLIM" and self.hyper.center_columns:
                means = found["item_means"]
                made = (taken.toarray() - means) @ found["item_similarity"] + means
            else:
                made = taken @ found["item_similarity"]
        elif "pred_mat" in found:
            made = found["pred_mat"][who]
        elif "user_embeddings" in found:
            made = found["user_embeddings"][who] @ found["item_embeddings"]
        else:
            made = np.tile(found["item_cnt"], (len(who), 1))
        made = made.toarray() if hasattr(made, "toarray") else np.asarray(made)
        return torch.as_tensor(np.ascontiguousarray(made, np.float32), device=self.ctx.device)

    def histories(self) -> list[Ints]:
        from bench.models._recbole_histories import train_histories

        return train_histories(self.data)

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        """A user's row times item weights; of ItemKNN, whose scores are kept, the weights are
        computed anew from the train rows."""
        own = self._taken, self.learned
        lengths = [len(h) for h in histories]
        taken = self._rows(np.repeat(np.arange(self.data.n_users), lengths),
                           np.concatenate(histories).astype(np.int64))
        if "pred_mat" in self.learned and getattr(self.hyper, "knn_method", "") == "item":
            from bench.foldin import item_weights

            self.learned = {"item_similarity": item_weights(self)}
        elif "item_similarity" not in self.learned:
            super().reading(histories)
        self._taken = taken
        try:
            yield
        finally:
            self._taken, self.learned = own

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, value in self.learned.items():
            if hasattr(value, "indptr"):
                parts = {"data": value.data, "indices": value.indices, "indptr": value.indptr,
                         "shape": np.array(value.shape, np.int64)}
                state |= {f"{name}.{k}": torch.as_tensor(v).clone() for k, v in parts.items()}
            else:
                state[name] = torch.as_tensor(value).clone().contiguous()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        from scipy.sparse import csr_matrix

        arrays = {k: v.cpu().numpy() for k, v in state.items()}
        self.learned = {k: v for k, v in arrays.items() if "." not in k}
        for name in {k.partition(".")[0] for k in arrays if "." in k}:
            parts = [arrays[f"{name}.{k}"] for k in ("data", "indices", "indptr")]
            self.learned[name] = csr_matrix(tuple(parts), shape=tuple(arrays[f"{name}.shape"]))


def _plain(value: Any) -> Any:
    """A numpy array or a sparse matrix by rows."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value.tocsr() if hasattr(value, "tocsr") else np.asarray(value)


def _without_padding(name: str, value: Any) -> Any:
    """The arrays without RecBole's row and column 0."""
    if name in ("item_cnt", "item_means"):
        return value.reshape(-1)[1:]
    if name == "user_embeddings":
        return value[1:]
    return value[:, 1:] if name == "item_embeddings" else value[1:, 1:]


class TreesRecommender(Recommender):
    """XGBoost and LightGBM on the identity and the attributes of users and items.

    Each train positive stands beside sampled negatives (or the negatives that the data labels);
    attributes with several values are left out, as a tree splits one column at a time. RecBole's
    trainer writes files and has no ranking; this calls the libraries with its parameters.
    """

    def __init__(self, plugin: Any, known: Mapping[str, Any], settings: Settings, data: Dataset,
                 ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper = plugin
        dataset = ArrayDataset(settings, data, attributes=True)
        self._columns = [_columns(f) for f in (dataset.user_feat, dataset.item_feat)]
        self.booster: Any = None

    def _table(self, users: Any, items: Any) -> Any:
        return np.hstack([self._columns[0][users + 1], self._columns[1][items + 1]])

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.sampling import Rows
        from bench.training import FitResult

        rows = Rows(self.data, self.ctx, labelled=True)
        batch = next(rows.points(1, len(rows), self.hyper.negatives))
        users, items, labels = (batch[k].cpu().numpy() for k in ("users", "items", "labels"))
        seed = self.ctx.number("trees") % 2**31
        table = self._table(users, items)
        own = {k: v for k, v in self.hyper.params().items()
               if k not in ("negatives", "num_boost_round")}
        rounds = self.hyper.num_boost_round
        if self.hyper.model == "XGBoost":
            import xgboost

            self.booster = xgboost.train(own | {"seed": seed, "nthread": 1, "verbosity": 0},
                                         xgboost.DMatrix(table, label=labels), rounds)
        else:
            import lightgbm

            fixed = {"seed": seed, "num_threads": 1, "verbosity": -1, "deterministic": True,
                     "force_row_wise": True}
            self.booster = lightgbm.train(own | fixed, lightgbm.Dataset(table, label=labels),
                                          rounds)
        return FitResult(epochs=1, best_epoch=1)

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        who, n_items = users.cpu().numpy(), self.data.n_items
        made = [self._predict(self._table(np.full(n_items, u), np.arange(n_items))) for u in who]
        return torch.as_tensor(np.stack(made).astype(np.float32), device=self.ctx.device)

    def _predict(self, table: Any) -> Any:
        if self.hyper.model == "XGBoost":
            import xgboost

            return self.booster.predict(xgboost.DMatrix(table))
        return self.booster.predict(table, num_threads=1)

    def state(self) -> dict[str, Tensor]:
        made = self.booster.save_raw("ubj") if self.hyper.model == "XGBoost" \
            else self.booster.model_to_string().encode()
        return {"booster": torch.frombuffer(bytearray(made), dtype=torch.uint8).clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        raw = state["booster"].cpu().numpy().tobytes()
        if self.hyper.model == "XGBoost":
            import xgboost

            self.booster = xgboost.Booster({"nthread": 1})
            self.booster.load_model(bytearray(raw))
        else:
            import lightgbm

            self.booster = lightgbm.Booster(model_str=raw.decode())


def _columns(feature: Any) -> Any:
    """One column per identity, category or number: (rows, columns)."""
    kept = []
    for values in feature.interaction.values():
        if values.ndim == 1:
            kept.append(values.numpy())
        elif values.dtype == torch.float32:  # a number: (value, 1), or (0, 0) where missing
            kept.append(np.where(values[:, 1] > 0, values[:, 0], np.nan))
    return np.stack(kept, axis=1).astype(np.float32)

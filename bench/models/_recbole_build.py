"""Puts together what a model of RecBole needs: settings, data, the right recommender."""

from __future__ import annotations

from typing import Any

import torch

from bench.context import Context
from bench.data import Dataset
from bench.models._recbole_compat import FIELDS, Settings
from bench.models.base import Recommender

# Hyper-parameters that RecBole's model reads under another name than ours.
_THEIRS = {"time_aware": "time-aware"}
# What the adapter decides: models start untrained, and it drives their stages itself.
_FIXED: dict[str, dict[str, Any]] = {
    "S3Rec": {"train_stage": "pretrain"}, "RaCT": {"train_stage": "actor_pretrain"},
    "KD_DAGFM": {"phase": "teacher_training"}, "ConvNCF": {"train_method": "no_pretrain"},
    "NeuMF": {"use_pretrain": False}, "DSSM": {"double_tower": True}}


def settings(plugin: Any, known: dict[str, Any], ctx: Context) -> Settings:
    """What the model reads as its configuration; no string of a user is evaluated."""
    from recbole.utils import ModelType

    types = {"general": ModelType.GENERAL, "sequential": ModelType.SEQUENTIAL,
             "context": ModelType.CONTEXT, "knowledge": ModelType.KNOWLEDGE,
             "external": ModelType.DECISIONTREE}
    values = {_THEIRS.get(k, k): list(v) if isinstance(v, tuple) else v
              for k, v in ((f, getattr(plugin, f)) for f in plugin.params())}
    return Settings({
        **FIELDS, **values, **_FIXED.get(plugin.model, {}), "model": plugin.model,
        "dataset": "arrays", "MODEL_TYPE": types[known["family"]], "numerical_features": [],
        "MAX_ITEM_LIST_LENGTH": values.get("max_length", 50), "seed": ctx.number("recbole") % 2**31,
        "train_batch_size": values.get("batch_size", 2048), "device": torch.device(ctx.device),
        "train_neg_sample_args": {"sample_num": values.get("negatives", 1)}})


def build(plugin: Any, data: Dataset, ctx: Context) -> Recommender:
    """An untrained recommender for the plugin's model."""
    from bench.models import _recbole_closed as closed
    from bench.models._recbole_model import RecBoleRecommender
    from bench.models._recbole_trainers import StagedRecommender
    from bench.models.recbole import facts

    known = facts()[plugin.model]
    kinds: dict[str, Any] = {"loop": RecBoleRecommender, "staged": StagedRecommender,
                             "closed": closed.ClosedRecommender, "trees": closed.TreesRecommender}
    made: Recommender = kinds[known["training"]](plugin, known, settings(plugin, known, ctx),
                                                 data, ctx)
    return made

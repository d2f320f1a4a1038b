"""A model's scores as a differentiable function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from bench.models.base import TorchRecommender


class _Scores(nn.Module):
    """Gives `functional_call` a forward that is the model's scoring, with gradients."""

    def __init__(self, model: TorchRecommender) -> None:
        super().__init__()
        self.module = model.module
        self._model = [model]  # in a list: the model is no sub-module

    def forward(self, users: Tensor) -> Tensor:
        model = self._model[0]
        # scoring switches gradients off; the function inside the decorator does not
        inner = getattr(type(model).scores, "__wrapped__", type(model).scores)
        scores: Tensor = inner(model, users)
        return scores


def scores_with(model: TorchRecommender, changed: Mapping[str, Tensor], users: Tensor) -> Tensor:
    """Scores (B, items) of the users with some parameters or buffers of the model's module
    (by name) replaced, differentiable in them. The model itself does not change."""
    model.forget()
    scores: Tensor = functional_call(_Scores(model), {f"module.{k}": v for k, v in changed.items()},
                                     (users,))
    model.forget()
    return scores

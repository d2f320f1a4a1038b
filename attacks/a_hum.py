"""Malicious clients who mine users that dislike the targets, and upload their liking of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.made_up_users import MadeUpUsers, choice_loss
from bench.plugin import param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.federated import Sent


class AHardUsers(MadeUpUsers):
    """A-hum: model poisoning with hard user mining (Rong et al., "Poisoning deep learning based
    recommender model in federated learning scenarios", IJCAI 2022).

    As A-ra, but each p̂_s ~ N(0, std²) first takes `steps` steps of size `rate`, by itself, down
    mean_t BCE(score(p̂_s, t), 0): users who dislike the targets, the hardest to convince. What makes
    them like a target makes others like it, too. Then the upload is the gradient of
    mean_s BCE(score(p̂_s, t), 1). steps 0 is A-ra with other draws. Knowledge, budget and the models
    it acts on are those of A-ra; the published rate is the model's learning rate, 0.001.

    In the published setting on ML-1M (budget 0.001, NeuMF without its product, vectors of 8,
    layers 8 and 8, four negatives, `federated: {weights: equal}`), hardly any list of 10 holds the
    target for three epochs and all do after four or five, for two initialisations; the authors'
    log has 8 % after eight epochs and 47 % after ten. Why it goes up earlier here is open.

    Example: attacks: [{a-hum: {budget: 0.01}}]
    """

    name = "a-hum"
    steps: int = param(30, "steps towards disliking the targets", low=0)
    rate: float = param(0.001, "size of such a step", above=0)

    def vectors(self, sent: Sent, drawn: Tensor, targets: Tensor) -> Tensor:
        import torch

        for _ in range(self.steps):
            drawn = drawn.detach().requires_grad_()
            loss = choice_loss(sent.scorer, sent.shared, drawn, targets, 0.0).sum()
            drawn = drawn - self.rate * torch.autograd.grad(loss, drawn)[0]
        return drawn.detach()

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"budget": 0.1, "steps": 5, "samples": 4}

"""Reads the genuine rows out of the model that scores for it."""

import torch

from bench.api import ClientAttack

BREAKS = "knows-no-more-than-stated"
BECAUSE = "interactions that it is not told of"


class PeekingClient(ClientAttack):
    """Moves the target towards the items that are taken most; no paper.

    Example: attacks: [peeking-client]
    """

    name = "peeking-client"

    def upload(self, sent, own, targets, ctx):
        taken = torch.as_tensor(sent.scorer._model.data.popularity).float()
        table = sent.shared["items.weight"]
        made = torch.zeros_like(table)
        made[targets] = -(taken[:, None] * table).sum(dim=0)
        return sent.clipped({"items.weight": made})

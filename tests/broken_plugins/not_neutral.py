"""Penalises even where it is switched off."""

from bench.api import Defense, param

BREAKS = "neutral-is-none"
BECAUSE = "the model differs from the one without defense"


class NotNeutral(Defense):
    """Penalises even where it is switched off; no paper.

    Example: defenses: [not-neutral]
    """

    name = "not-neutral"
    weight: float = param(0.1, "weight of the penalty", low=0)

    @classmethod
    def neutral_params(cls):
        return {"weight": 0.0}

    def loss(self, model, batch, clean_loss, epoch):
        penalty = sum(t.weight.pow(2).sum() for t in model.tables().values())
        return clean_loss + (self.weight + 1e-3) * penalty

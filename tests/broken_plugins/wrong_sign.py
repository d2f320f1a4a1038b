"""Perturbs downhill."""

from bench.api import Defense, param

BREAKS = "two-passes-differ"
BECAUSE = "is below the clean loss"


class WrongSign(Defense):
    """Perturbs downhill; no paper.

    Example: defenses: [wrong-sign]
    """

    name = "wrong-sign"
    eps: float = param(0.1, "radius per row", low=0)
    weight: float = param(1.0, "weight of the adversarial term", low=0)

    def loss(self, model, batch, clean_loss, epoch):
        import torch

        from bench.perturb import steepest

        tables = model.tables()
        slopes = torch.autograd.grad(clean_loss, [t.weight for t in tables.values()],
                                     retain_graph=True)
        delta = {k: steepest(g, self.eps, "l2") for k, g in zip(tables, slopes, strict=True)}
        delta = {k: -d for k, d in delta.items()}
        return clean_loss + self.weight * model.loss(batch, delta)

"""The adversarial term teaches nothing."""

from bench.api import Defense, param

BREAKS = "two-passes-differ"
BECAUSE = "the adversarial term has no gradient by the parameters"


class DetachedTerm(Defense):
    """The adversarial term teaches nothing; no paper.

    Example: defenses: [detached-term]
    """

    name = "detached-term"
    eps: float = param(0.1, "radius per row", low=0)
    weight: float = param(1.0, "weight of the adversarial term", low=0)

    def loss(self, model, batch, clean_loss, epoch):
        import torch

        from bench.perturb import steepest

        tables = model.tables()
        slopes = torch.autograd.grad(clean_loss, [t.weight for t in tables.values()],
                                     retain_graph=True)
        delta = {k: steepest(g, self.eps, "l2") for k, g in zip(tables, slopes, strict=True)}
        return clean_loss + self.weight * model.loss(batch, delta).detach()

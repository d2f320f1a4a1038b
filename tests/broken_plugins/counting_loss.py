"""Its loss grows with every time that anybody asks for it."""

from bench.models.bprmf import BPRMF

BREAKS = "gives-gradients"
BECAUSE = "asked twice for the same loss, it gives two values"


class CountingLoss(BPRMF):
    """Its loss grows with every time that anybody asks for it; no paper.

    Example: models: [counting-loss]
    """

    name = "counting-loss"

    def build(self, data, ctx):
        model, seen = super().build(data, ctx), []
        plain = model.batch_loss

        def counted(batch):
            seen.append(1)
            return plain(batch) * (1 + 0.001 * len(seen))

        model.batch_loss = counted
        return model

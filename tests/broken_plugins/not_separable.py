"""A user's loss depends on who else is in the batch, and it says that it does not."""

from bench.models.bprmf import BPRMF

BREAKS = "gives-user-separable"
BECAUSE = "it promises user-separable, and"


class NotSeparable(BPRMF):
    """bprmf whose loss is normalised over the batch; no paper.

    Example: models: [not-separable]
    """

    name = "not-separable"

    def build(self, data, ctx):
        from bench.models._bprmf import BprRecommender

        class Mixed(BprRecommender):
            def batch_loss(self, batch):
                p = self.module.users(batch["users"])
                p = (p - p.mean(dim=0)) / (p.std(dim=0) + 1e-3)
                gap = self.module.items(batch["items"]) - self.module.items(batch["negatives"])
                return (-(p * gap).sum(dim=1)).exp().log1p().mean()

        return Mixed(self, data, ctx)

"""A user's loss is divided by how many users have rows, and it says that others do not enter."""

from bench.models.bprmf import BPRMF

BREAKS = "gives-user-separable"
BECAUSE = "when the rows of another user leave the data"


class CountsEverybody(BPRMF):
    """bprmf whose loss is a share of those who took something; no paper.

    Example: models: [counts-everybody]
    """

    name = "counts-everybody"

    def build(self, data, ctx):
        from bench.models._bprmf import BprRecommender

        class Shared(BprRecommender):
            def batch_loss(self, batch):
                active = len(set(self.data.train.users.tolist()))
                return super().batch_loss(batch) / active

        return Shared(self, data, ctx)

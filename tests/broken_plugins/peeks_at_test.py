"""Learns from the test split."""

from bench.api import ModelPlugin

BREAKS = "sees-no-future"
BECAUSE = "with other test items its"


class PeeksAtTest(ModelPlugin):
    """Learns from the test split; no paper.

    Example: models: [peeks-at-test]
    """

    name = "peeks-at-test"

    @property
    def gives(self):
        return frozenset()

    def build(self, data, ctx):
        import torch

        from bench.models.base import Recommender
        from bench.training import FitResult

        class Learned(Recommender):
            def fit(self, defense, progress):
                taken = torch.zeros(self.data.n_users, self.data.n_items)
                for rows in (self.data.train, self.data.test):
                    taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.table = taken @ (taken.T @ taken)
                return FitResult()

            def scores(self, users, split="test"):
                return self.table[users]

            def state(self):
                return {"table": self.table}

            def load_state(self, state):
                self.table = state["table"]

        return Learned(data, ctx)

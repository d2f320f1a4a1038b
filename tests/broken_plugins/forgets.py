"""Saves nothing of what it learned."""

from bench.api import ModelPlugin

BREAKS = "save-and-load"
BECAUSE = "a loaded model scores otherwise than the one that was saved"


class Forgets(ModelPlugin):
    """Saves nothing of what it learned; no paper.

    Example: models: [forgets]
    """

    name = "forgets"

    @property
    def gives(self):
        return frozenset(set())

    def build(self, data, ctx):
        import torch

        from bench.models.base import Recommender
        from bench.training import FitResult

        class Learned(Recommender):
            def fit(self, defense, progress):
                rows = self.data.train.positives()
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = self.taken.T @ self.taken
                return FitResult()

            def scores(self, users, split="test"):
                return self.taken[users] @ self.weights

            def state(self):
                return {}

            def load_state(self, state):
                rows = self.data.train.positives()
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

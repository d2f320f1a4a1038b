"""Scores users by who is asked with them."""

from bench.api import ModelPlugin

BREAKS = "scores"
BECAUSE = "depend on which users are asked together"


class DependsOnBlock(ModelPlugin):
    """Scores users by who is asked with them; no paper.

    Example: models: [depends-on-block]
    """

    name = "depends-on-block"

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
                found = self.taken[users] @ self.weights
                return found - found.mean(dim=0)

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                rows = self.data.train.positives()
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

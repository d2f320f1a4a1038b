"""Gives everybody the same scores."""

from bench.api import ModelPlugin

BREAKS = "beats-pop"
BECAUSE = "every user gets the same scores: the model ignores who is as"


class IgnoresUsers(ModelPlugin):
    """Gives everybody the same scores; no paper.

    Example: models: [ignores-users]
    """

    name = "ignores-users"

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
                return self.weights.sum(dim=0).expand(len(users), -1)

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                rows = self.data.train.positives()
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

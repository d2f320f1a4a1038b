"""Reads validation items without saying so."""

from bench.api import ModelPlugin

BREAKS = "gives-histories"
BECAUSE = "its scores depend on the split, and it does not promise hist"


class SecretHistory(ModelPlugin):
    """Reads validation items without saying so; no paper.

    Example: models: [secret-history]
    """

    name = "secret-history"

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
                known = self.data.known(split).positives()
                taken = torch.zeros(self.data.n_users, self.data.n_items)
                taken[torch.as_tensor(known.users), torch.as_tensor(known.items)] = 1.0
                return taken[users] @ self.weights

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                rows = self.data.train.positives()
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

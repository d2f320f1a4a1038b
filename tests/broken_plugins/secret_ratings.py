"""Reads ratings without saying so."""

from bench.api import ModelPlugin

BREAKS = "gives-ratings"
BECAUSE = "its scores depend on ratings, and it does not promise them"


class SecretRatings(ModelPlugin):
    """Reads ratings without saying so; no paper.

    Example: models: [secret-ratings]
    """

    name = "secret-ratings"

    @property
    def gives(self):
        return frozenset(set())

    def build(self, data, ctx):
        import torch

        from bench.models.base import Recommender
        from bench.training import FitResult

        class Learned(Recommender):
            def fit(self, defense, progress):
                rows = self.data.train
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = (
                    torch.as_tensor(rows.ratings, dtype=torch.float32))
                self.weights = self.taken.T @ self.taken
                return FitResult()

            def scores(self, users, split="test"):
                return self.taken[users] @ self.weights

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                rows = self.data.train
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = (
                    torch.as_tensor(rows.ratings, dtype=torch.float32))
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

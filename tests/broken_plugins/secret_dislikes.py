"""Takes disliked rows for liked ones."""

from bench.api import ModelPlugin

BREAKS = "gives-dislikes"
BECAUSE = "its scores depend on disliked rows, and it does not promise"


class SecretDislikes(ModelPlugin):
    """Takes disliked rows for liked ones; no paper.

    Example: models: [secret-dislikes]
    """

    name = "secret-dislikes"

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
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = self.taken.T @ self.taken
                return FitResult()

            def scores(self, users, split="test"):
                return self.taken[users] @ self.weights

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                rows = self.data.train
                self.taken = torch.zeros(self.data.n_users, self.data.n_items)
                self.taken[torch.as_tensor(rows.users), torch.as_tensor(rows.items)] = 1.0
                self.weights = state.get("weights", torch.zeros(data.n_items, data.n_items))

        return Learned(data, ctx)

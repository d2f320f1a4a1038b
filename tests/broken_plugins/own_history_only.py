"""Says that it reads other histories, and reads its own."""

import contextlib

from bench.api import ModelPlugin

BREAKS = "reads-other-histories"
BECAUSE = "reading other histories changes no score"


class OwnHistoryOnly(ModelPlugin):
    """Co-occurrence with what is known of a user, always the same; no paper.

    Example: models: [own-history-only]
    """

    name = "own-history-only"

    @property
    def gives(self):
        return frozenset({"histories"})

    def build(self, data, ctx):
        import torch

        from bench.models.base import Recommender
        from bench.training import FitResult

        class Learned(Recommender):
            def fit(self, defense, progress):
                taken = self.taken("valid")
                self.weights = taken.T @ taken
                return FitResult()

            def taken(self, split):
                known = self.data.known(split).positives()
                found = torch.zeros(self.data.n_users, self.data.n_items)
                found[torch.as_tensor(known.users), torch.as_tensor(known.items)] = 1.0
                return found

            @contextlib.contextmanager
            def reading(self, histories):
                yield

            def scores(self, users, split="test"):
                return self.taken(split)[users] @ self.weights

            def state(self):
                return {"weights": self.weights}

            def load_state(self, state):
                self.weights = state["weights"]

        return Learned(data, ctx)

"""Registers twice as many malicious clients as its budget."""

from bench.api import Context, Dataset, Interactions
from bench.attacks.fed_rec_attack import FedRecAttack

BREAKS = "clients-within-budget"
BECAUSE = "malicious clients, the budget is"


class TooManyClients(FedRecAttack):
    """FedRecAttack by twice the stated number of clients; no paper.

    Example: attacks: [too-many-clients]
    """

    name = "too-many-clients"

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        count = 2 * max(1, round(self.budget * data.n_genuine))
        return data.with_fakes(Interactions.empty(data.train), count)

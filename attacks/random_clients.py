"""Malicious clients who upload noise: the control of those who have a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bench.api import ClientAttack, Context, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data import Ints
    from bench.federated import Client, Sent


class RandomClients(ClientAttack):
    """As many malicious clients as any attack of this budget has, each of which uploads noise of
    the largest size allowed. No paper; the control of CATALOGUE A1 for clients of federated
    training.

    A client moves the targets and κ − |T| other items, drawn uniformly once. In each round, their
    rows in every parameter with a row per item are C·z/‖z‖₂, z ~ N(0, I) drawn anew and C the
    server's clip; other parameters it leaves as they are. Rows that move anywhere grow longer, and
    what is longer stands first for some users and last for others: that alone puts targets into
    lists. An attack that does no better has found no direction. Knowledge: none. In the published
    setting of FedRecAttack, ER@5 after five epochs is 0.02 to 0.14 with these clients and 0.78 to
    0.89 with theirs (`scripts/reproduce_fed_rec_attack.py 5 3 control`, three targets).

    Budget: malicious clients (share of genuine users), κ items each, rows of exactly the clip.
    Name those of the attack that is judged: a-ra and a-hum have 30 items, fed-rec-attack 60.

    Example: attacks: [{fed-rec-attack: {budget: 0.05}}, {random-clients: {budget: 0.05}}]
    """

    name = "random-clients"
    threat: ClassVar[ThreatModel] = ThreatModel("model-poison", "none", "push")

    def upload(self, sent: Sent, own: Client, targets: Ints, ctx: Context) -> dict[str, Tensor]:
        import torch

        if "rows" not in own.memory:
            count = min(stop - start for start, stop in sent.items.values())
            others = np.setdiff1d(np.arange(count), targets)
            drawn = ctx.stream(self.name, own.index).permutation(others)
            own.memory["rows"] = np.concatenate([targets, drawn[:self.items - len(targets)]])
            own.memory["stream"] = ctx.torch_stream(self.name, own.index)
        made = {}
        for key, (start, _) in sent.items.items():
            table = sent.shared[key]
            noise = torch.randn((len(own.memory["rows"]), *table.shape[1:]),
                                generator=own.memory["stream"])
            flat = noise.double().reshape(len(noise), -1)  # (κ, width)
            flat = flat * (sent.clip / flat.norm(dim=1, keepdim=True))
            rows = torch.as_tensor(start + own.memory["rows"], device=table.device)
            made[key] = torch.zeros_like(table)
            made[key][rows] = flat.reshape(noise.shape).to(table)
        return made

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"budget": 0.2, "items": 8}

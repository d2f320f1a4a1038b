"""FedRecAttack on ml-100k beside the figures that its authors publish.

    python scripts/reproduce_fed_rec_attack.py [epochs] [seeds] [control]

With `control`, as many clients upload noise on as many items instead (random-clients).

Their setting (README of their code, rdz98/FedRecAttack): every rating a positive, one item per user
held out; matrix factorisation with vectors of 32 numbers ~ N(0, 0.01²), −log σ(s_ui − s_uj) summed
over a user's rows, sgd of rate 0.01, 256 clients a round, rows clipped at 1; ρ 5 % malicious
clients, κ 60, ξ 1 % of each user's rows, rounded up; one target drawn from all items. ER@K: share
of genuine users who have the target neither in train nor in test and find it in their list of K,
what they have left out.

What differs: who is held out (here the newest rating), the draws, and negatives, which they draw
once and we anew each epoch; their L2 of 0.1 counts a user's vector once, ours once per row.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch

from bench.api import ClientAttack, Context, Dataset
from bench.attacks.fed_rec_attack import FedRecAttack
from bench.attacks.random_clients import RandomClients
from bench.datasets.ml_100k import ML100K
from bench.defenses.federated import Federated
from bench.models.base import build
from bench.models.bprmf import BPRMF

# Epoch -> (ER@5, ER@10), of target 894 in their numbering.
PUBLISHED = {1: (0.3869, 0.4019), 2: (0.5198, 0.5220), 3: (0.6045, 0.6077), 4: (0.7170, 0.7192),
             5: (0.7814, 0.7824)}


@dataclass(frozen=True)
class Found:
    """What a run gives: the target's train rows, and (ER@5, ER@10) after each epoch, 0 included."""

    target: int
    popularity: int
    ratios: list[tuple[float, float]]


def their_data() -> Dataset:
    """ml-100k with the newest rating of each user in test and the rest in train."""
    data = ML100K(split="leave-last-out", last=1).load()
    return data.replace(train=data.train.plus(data.valid), valid=data.valid[:0])


def run(data: Dataset, seed: int, epochs: int, budget: float = 0.05,
        control: bool = False) -> Found:
    """Train under the attack, or under its control; exposure of its target after each epoch."""
    ctx = Context(seed)
    target = int(ctx.stream("any item").integers(data.n_items))

    class OneOfAll(FedRecAttack):
        """FedRecAttack on an item drawn from all, as the authors do; no paper."""

        def pick(self, data, ctx):  # type: ignore[no-untyped-def]
            return np.array([target])

    class Noise(RandomClients):
        """The control, on the same item; no paper."""

        pick = OneOfAll.pick  # type: ignore[assignment]

    attack: ClientAttack = Noise(budget=budget, items=60) if control else \
        OneOfAll(budget=budget, items=60, known=0.01, round_up=True)
    model = build(BPRMF(dim=32, init_std=0.01, optimizer="sgd", learning_rate=0.01,
                        reduction="sum", epochs=epochs, patience=0),
                  attack.before_training(data, ctx), ctx)
    model.intruder = attack
    taken = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    for rows in (data.train, data.test):
        taken[rows.users, rows.items] = True

    def ratios() -> tuple[float, float]:
        scores = model.scores(torch.arange(data.n_users)).masked_fill(taken, -torch.inf)
        lists = scores[~taken[:, target]].topk(10, dim=1).indices == target  # (users, 10)
        five, ten = (float(lists[:, :k].any(dim=1).float().mean()) for k in (5, 10))
        return five, ten

    found = [ratios()]
    model.fit(Federated(clients=256, clip=1.0), lambda event: found.append(ratios()))
    return Found(target, int(data.popularity[target]), found)


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    torch.set_num_threads(1)
    data = their_data()
    print(f"{data.n_users} users, {data.n_items} items, {len(data.train)} train rows")
    control = "control" in sys.argv[3:]
    made = [run(data, seed, epochs, control=control) for seed in range(seeds)]
    print("epoch  published ER@5, ER@10   " + "   ".join(
        f"item {m.target} ({m.popularity} rows)" for m in made))
    for epoch in range(epochs + 1):
        told = PUBLISHED.get(epoch)
        text = f"{told[0]:.3f}, {told[1]:.3f}" if told else ""
        print(f"{epoch:5d}  {text:23s}  " + "   ".join(
            f"{m.ratios[epoch][0]:.3f}, {m.ratios[epoch][1]:.3f}     " for m in made))


if __name__ == "__main__":
    main()

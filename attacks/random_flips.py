"""A share of everybody's interactions goes to random items instead."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.api import Context, Dataset
from bench.natural import NaturalNoise, over_users


class RandomFlips(NaturalNoise):
    """Replaces int(rate · rows) train rows: the item becomes one that the user has not taken.

    Misclicks, shared accounts, gifts: noise without intention, as O'Mahony, Hurley and Silvestre,
    "Detecting Noise in Recommender System Databases", IUI 2006, tell it from attacks; a
    "transformation" in Ovaisi et al., "RGRecSys: A Toolkit for Robustness Evaluation of
    Recommender Systems", WSDM 2022. The rows are spread over users: of each user's n rows
    rate · n change, up to one. The new items are uniform over what the user has not taken in
    train, each at most once a user; rating, label and time of the row stay. A larger rate
    replaces the rows of a smaller one, by the same items.

    Evaluation masks what the user really took, not what replaced it.

    A poisoning is worth its name if it does more harm than this at the same number of rows.

    Budget: rate of the train rows. Knowledge: none.

    Args:
        rate: share of train rows replaced.

    Shapes: train rows stay as many, in their order.

    Example: attacks: [{random-flips: {rate: [0.05, 0.2]}}]
    """

    name = "random-flips"

    def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
        rows = data.train
        flipped = over_users(rows, ctx, "flips")[:self.budget(rows)]
        items = rows.items.copy()
        order = flipped[np.argsort(rows.users[flipped], kind="stable")]  # by user, then by turn
        users, first = np.unique(rows.users[order], return_index=True)
        own = np.argsort(rows.users, kind="stable")
        starts = np.searchsorted(rows.users[own], np.arange(data.n_users + 1))
        for user, turn in zip(users.tolist(), np.split(order, first)[1:], strict=True):
            free = np.ones(data.n_items, bool)
            free[rows.items[own[starts[user]:starts[user + 1]]]] = False
            drawn = ctx.stream("flipped-items", user).permutation(data.n_items)
            drawn = drawn[free[drawn]][:len(turn)]
            items[turn[:len(drawn)]] = drawn  # who has taken everything keeps it
        return data.replace(train=dataclasses.replace(rows, items=items))

"""Fairness methods where a group, a label, or a candidate is missing, and what they count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.calibrated_rerank import CalibratedRerank
from bench.defenses.focf import Focf
from bench.defenses.group_dro import GroupDro
from bench.defenses.ips import Ips
from bench.defenses.none import NoDefense
from bench.defenses.popularity_rerank import PopularityRerank
from bench.defenses.user_fairness import UserFairness
from bench.errors import CannotActError, InputError, PluginError
from bench.evaluate import evaluate
from bench.fairness import labels_of, sides
from bench.metrics import fair_items
from bench.metrics.beyond import long_tail
from bench.models._simple import RandomScores
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.models.rating_mf import RatingMF
from bench.rerank import history_shares, quota, tail_of, unit
from bench.rerank_fair import _between
from bench.training import Loop

CTX = Context(0)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(users=40, items=48, noise=0.4).load()


def disliking(data: Dataset) -> Dataset:
    """Ratings from 4 count as liked; every second user (F) gave none of these."""
    train = data.train
    ratings = np.where(train.users % 2 == 1, 2.0, 5.0)
    ratings[(train.users % 2 == 0) & (np.arange(len(train)) % 3 == 0)] = 1.0
    labels = (ratings >= 4).astype(np.int64)
    return data.replace(train=Interactions(train.users, train.items, ratings, train.times,
                                           labels), threshold=4.0)


def test_group_weights_start_at_the_shares_of_the_rows_that_are_learned(blocks):
    """A rating model learns from rows that nobody likes; counted by likes, their group would
    weigh 0 for ever, and a batch of that group alone would have no weights at all."""
    data = disliking(blocks)
    for plugin in (RatingMF(dim=4, batch_size=4), RatingMF(dim=4)):
        model = build(plugin, data, CTX)
        assert isinstance(model, TorchRecommender)
        loop = Loop(model, GroupDro(groups="gender", eta=1e-9))
        loop.defense.wrap(loop)
        for batch in list(loop.batches(1))[:20]:
            clean = model.loss(batch)
            found = loop.defense.loss(model, batch, clean, 1)
            assert torch.isfinite(found)
            if len(batch["users"]) == len(data.train):  # all rows: q is then their shares
                assert found.item() == pytest.approx(clean.item(), rel=1e-5)
        weights = [w["weight"] for w in loop.notes["group_dro"].values()]
        assert weights == pytest.approx([0.5, 0.5])


def test_propensities_of_a_rating_model_are_of_rated_rows(blocks):
    data = disliking(blocks)
    rating, ranking = (build(p, data, CTX) for p in (RatingMF(dim=4, l2=0.0), BPRMF(dim=4)))
    liked = data.train.items[data.train.labels == 1]
    for model, items in ((rating, data.train.items), (ranking, liked)):
        count = np.maximum(np.bincount(items, minlength=48), 1)
        assert np.allclose(Ips(gamma=1.0, clip=0.0).weights(data, model), count.max() / count)
    batch = next(iter(rating.batches(1, 50)))
    weights = torch.as_tensor(Ips().weights(data, rating))[batch["items"]]
    errors = (batch["ratings"] - rating.predict(batch["users"], batch["items"])) ** 2
    plain = rating.loss(batch)
    found = Ips().loss(rating, batch, plain, 1)
    assert float((found - plain).detach()) == pytest.approx(
        float((errors * (weights - 1)).mean().detach()), rel=1e-4)


def test_non_parity_refuses_batches_of_one_side(blocks):
    made = build(RatingMF(epochs=1, batch_size=1), blocks, CTX)
    with pytest.raises(PluginError, match="ratings of both groups"):
        made.fit(Focf(measure="non-parity"), lambda event: None)
    whole = build(RatingMF(epochs=1, batch_size=4096), blocks, CTX)
    whole.fit(Focf(measure="non-parity"), lambda event: None)


def test_classes_are_those_that_somebody_has_alone(blocks):
    def labelled(rows: list[tuple[str, ...]]) -> Dataset:
        column = np.array([*rows, None], object)[:-1]
        return blocks.replace(user_attributes={"club": column})

    every = [("a", "b"), ("a",), ("c",), ()] * 10
    found, names = labels_of(labelled(every), "club")
    assert names == ["a", "c"]  # nobody is in b alone
    assert found.tolist() == [-1, 0, 1, -1] * 10
    for rows in ([("a", "b"), ("a",)] * 20, [("a", "b")] * 40, [()] * 40):
        with pytest.raises(InputError, match="several at once, or none"):
            labels_of(labelled(rows), "club")
    with pytest.raises(InputError, match="one side of club=a"):
        sides(labelled([("a", "b"), ("a",)] * 20), "club")


def test_reasons_do_not_point_into_the_grids_groups(blocks):
    said = str(GroupDro(groups="genderr").unfit(BPRMF(), blocks))
    assert "did you mean 'gender'" in said
    assert "groups.users" not in said
    many = blocks.replace(item_attributes={"genre": np.array(
        [f"g{n}" for n in range(48)], object).repeat(5)[:48]})
    assert CalibratedRerank().unfit(Pop(), many) is None


def test_a_group_of_which_nothing_is_relevant_has_no_chance_to_compare():
    shares = fair_items.opportunity(np.array([1.0, 0.0]), np.array([1, 1]))
    assert np.isnan(shares[0])
    assert shares[1] == 0.5
    assert np.isnan(fair_items.spread(shares))  # with 0 for the empty group it would be 1


def test_popreo_without_a_relevant_item_of_the_head_is_undefined(blocks):
    keep = long_tail(blocks.popularity)[blocks.test.items] == 1
    rare = blocks.replace(test=blocks.test[keep])
    model = RandomScores(blocks, CTX)
    assert np.isnan(evaluate(model, rare, ["popreo@10"]).values[0][2])
    assert not np.isnan(evaluate(model, blocks, ["popreo@10"]).values[0][2])


def test_a_quota_that_candidates_do_not_allow_is_said(blocks):
    model = RandomScores(blocks, CTX)
    for defense in (PopularityRerank(method="quota", share=1.0, candidates=10),
                    PopularityRerank(method="quota", share=0.5, candidates=48)):
        served = defense.harden(model, blocks, CTX)
        scores = served.scores(torch.arange(40)).numpy().copy()
        known = blocks.known("test")
        scores[known.users, known.items] = -np.inf
        lists = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        tail = served.tail.numpy()[lists].cumsum(axis=1)
        share = (tail < quota(10, defense.share, 0.1)).any(axis=1).mean()
        assert defense.served_facts(served) == {"quota_missed": pytest.approx(share)}
        assert share > 0.5 if defense.share == 1.0 else share == 0
    assert PopularityRerank().served_facts(PopularityRerank().harden(model, blocks, CTX)) == {}


def placed(data: Dataset, rank: int) -> RandomScores:
    """Scores in which everybody's validation item stands at this place among the unknown."""

    class Placed(RandomScores):
        def scores(self, users, split="test"):
            scores = super().scores(users, "test").clone()
            known = data.known("valid")
            for row, u in enumerate(users.tolist()):
                own = data.valid.items[data.valid.users == u]
                others = np.setdiff1d(np.arange(data.n_items),
                                      [*known.items[known.users == u], *own])
                scores[row, torch.as_tensor(others)] = torch.arange(len(others), 0, -1.0)
                scores[row, torch.as_tensor(own)] = len(others) - rank + 1.5
            return scores

    return Placed(data, CTX)


def test_lists_of_unknown_worth_are_refused_and_certain_ones_are_worth_one(blocks):
    defense = UserFairness(attribute="gender", length=2, candidates=2, metric="precision")
    with pytest.raises(CannotActError, match=r"20 users of one group.* 2 candidates"):
        defense.harden(placed(blocks, 10), blocks, CTX).solution()
    defense = UserFairness(attribute="gender", length=1, candidates=1, metric="precision")
    served = defense.harden(placed(blocks, 1), blocks, CTX)  # each candidate was taken up
    assert served.solution().before == served.solution().after == (1.0, 1.0)
    facts = defense.served_facts(served)
    assert facts["users_judged"] == {"group": 20, "rest": 20}
    assert facts["expected_precision"]["group"] == {"before": 1.0, "after": 1.0}


def test_one_group_and_no_attribute_are_reasons(blocks):
    one = blocks.replace(user_attributes={"gender": np.array(["F"] * 40, object)})
    none = blocks.replace(user_attributes={})
    for data in (one, none):
        for plugin, model in ((Focf(), RatingMF()), (UserFairness(attribute="gender"), Pop()),
                              (GroupDro(groups="gender"), BPRMF())):
            assert plugin.unfit(model, data)
    half = blocks.replace(valid=blocks.valid[blocks.valid.users % 2 == 1])
    said = UserFairness(attribute="gender").unfit(Pop(), half)
    assert "validation split" in str(said)
    assert UserFairness(attribute="gender", eps=math.inf).unfit(Pop(), half) is None


# -- whom lists are made for, and on what ---------------------------------------------------------

def test_popularity_and_histories_are_counted_on_what_was_liked(blocks):
    data = disliking(blocks)
    liked = data.train[data.train.labels == 1]
    assert (tail_of(data) == long_tail(np.bincount(liked.items, minlength=48))).all()
    assert (tail_of(data) != long_tail(np.bincount(data.train.items, minlength=48))).any()
    member = np.eye(4)[np.arange(48) % 4]
    found = history_shares(data.replace(valid=data.valid[:0]), "test", member)
    right = np.bincount(liked.items[liked.users == 2] % 4, minlength=4)
    assert np.allclose(found[2], right / right.sum())
    assert (found[1] == 0).all()  # rated, liked nothing
    served = PopularityRerank().harden(RandomScores(data, CTX),
                                       data.replace(valid=data.valid[:0]), CTX)
    assert served.likes("test")[1].tolist() == [0.5, 0.5]


def test_users_without_validation_items_are_taken_to_want_as_many_as_others(blocks):
    """F1 divides by K + |T|: for them |T| is the mean of the others, here 3."""
    rows = blocks.valid
    three = Interactions(np.repeat(rows.users, 3), np.stack(
        [rows.items, (rows.items + 1) % 48, (rows.items + 2) % 48], axis=1).ravel(),
        np.full(120, 5.0), np.zeros(120))
    some = blocks.replace(valid=three[three.users < 30])
    found = {}
    for metric in ("f1", "precision"):
        served = UserFairness(attribute="gender", eps=1e9, metric=metric, length=10).harden(
            RandomScores(blocks, CTX), some, CTX)
        found[metric] = served.solution().before
    assert found["f1"] == pytest.approx([v * 10 * 2 / 13 for v in found["precision"]])


def test_popularity_tells_which_candidates_are_taken_up(blocks):
    """Scores say nothing here, and validation items are the popular ones."""
    popular = np.argsort(-np.bincount(blocks.train.items, minlength=48), kind="stable")
    taken = []
    for u in range(40):
        own = set(blocks.train.items[blocks.train.users == u].tolist())
        taken.append(next(int(i) for i in popular if int(i) not in own))
    data = blocks.replace(valid=Interactions(np.arange(40), np.array(taken)))
    served = UserFairness(attribute="gender", candidates=48).harden(
        RandomScores(data, CTX), data, CTX)
    items, values = served._candidates("valid")
    worth = served._relevance(items, unit(torch.as_tensor(values)).numpy())
    count = np.where(np.isfinite(values), served.popularity[items], -1)
    top = worth[np.arange(40), count.argmax(axis=1)]
    assert (top > 2 * worth.mean(axis=1)).all()


def test_lists_are_solved_anew_for_what_the_model_has_become(blocks):
    model = build(BPRMF(dim=4, epochs=3), blocks, CTX)
    model.fit(NoDefense(), lambda event: None)
    defense = UserFairness(attribute="gender", candidates=30)
    served = defense.harden(model, blocks, CTX)
    before = served.solution().places
    delta = {"user": torch.randn(40, 4, generator=torch.Generator().manual_seed(0))}
    with model.perturbed(delta):
        served.forget()
        fresh = defense.harden(model, blocks, CTX).solution().places
        assert (served.solution().places == fresh).all()
        assert served.solution().places is not before


def test_of_lists_on_both_sides_of_the_bounds_the_nearer_are_taken():
    """One user ties: the exchange takes the gap from .3 to −.2, beyond both bounds of .1; two
    users who exchange half as much meet in the middle."""
    wide = np.array([[0.3, -0.2]])
    assert _between(np.array([[0]]), np.array([[1]]), wide, 0.1).tolist() == [[1]]
    near = np.array([[0.15, -0.2]])
    assert _between(np.array([[0]]), np.array([[1]]), near, 0.1).tolist() == [[0]]
    two = np.array([[0.15, -0.1], [0.15, -0.1]])
    found = _between(np.array([[0], [0]]), np.array([[1], [1]]), two, 0.05)
    assert sorted(found.ravel().tolist()) == [0, 1]

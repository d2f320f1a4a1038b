"""Greedy re-rankers: identity at 0, their objective by brute force, and what they change."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.calibrated_rerank import CalibratedRerank
from bench.defenses.none import NoDefense
from bench.defenses.popularity_rerank import PopularityRerank
from bench.metrics.beyond import long_tail
from bench.metrics.groups import item_groups
from bench.models._simple import RandomScores
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.rerank import history_shares, lift, quota, tail_of, unit
from bench.rerank_greedy import divergence

CTX = Context(0)
USERS = 200  # of MovieLens, where a mean over some is enough


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(users=40, items=60, noise=0.4).load()


@pytest.fixture(scope="module")
def films() -> tuple[Dataset, Recommender]:
    data = ML100K().load()
    model = build(BPRMF(dim=16, epochs=3, learning_rate=0.02, patience=0), data, CTX)
    model.fit(NoDefense(), lambda event: None)
    return data, model


def served(defense, data: Dataset, model: Recommender | None = None) -> Recommender:
    return defense.harden(model or RandomScores(data, CTX), data.replace(test=data.test[:0]), CTX)


def top(model: Recommender, data: Dataset, k: int = 10, split: str = "test",
        users: int = 0) -> np.ndarray:
    users = users or data.n_users
    scores = model.scores(torch.arange(users), split).double().numpy().copy()
    known = data.known(split)
    known = known[known.users < users]
    scores[known.users, known.items] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


NEUTRAL = [PopularityRerank(strength=0.0), PopularityRerank(method="quota", share=0.0),
           CalibratedRerank(strength=0.0)]
ALMOST = [PopularityRerank(strength=1e-9), PopularityRerank(method="quota", share=1e-9),
          CalibratedRerank(strength=1e-9)]
STRONG = [PopularityRerank(strength=0.5), PopularityRerank(strength=0.5, coverage="binary"),
          PopularityRerank(method="quota", share=0.95), CalibratedRerank()]


@pytest.mark.parametrize("defense", NEUTRAL, ids=str)
def test_neutral_is_the_model_itself(blocks, defense):
    model = RandomScores(blocks, CTX)
    assert served(defense, blocks, model) is model


@pytest.mark.parametrize("defense", ALMOST, ids=str)
def test_at_almost_zero_the_list_is_the_models(blocks, defense):
    model = RandomScores(blocks, CTX)
    assert (top(served(defense, blocks, model), blocks) == top(model, blocks)).all()


@pytest.mark.parametrize("defense", STRONG, ids=str)
def test_lists_are_new_items_among_the_candidates_and_all_else_keeps_its_order(blocks, defense):
    model = RandomScores(blocks, CTX)
    changed = served(defense, blocks, model)
    for split in ("valid", "test"):
        before, after = top(model, blocks, 46, split), top(changed, blocks, 46, split)
        assert (after[:, :10] != before[:, :10]).any()
        for row_before, row_after in zip(before, after):
            assert len(set(row_after)) == 46
            rest = [i for i in row_before if i not in set(row_after[:10])]
            assert row_after[10:].tolist() == rest
    users = torch.tensor([7, 3])
    assert torch.equal(changed.scores(users), changed.scores(torch.arange(40))[users])


@pytest.mark.parametrize("binary", [True, False])
def test_xquad_takes_the_best_item_at_every_step(blocks, binary):
    """Its objective written out for one user at a time."""
    strength, data = 0.4, blocks
    model = RandomScores(data, CTX)
    lists = top(served(PopularityRerank(strength=strength, candidates=20,
                                        coverage="binary" if binary else "smooth"),
                       data, model), data)
    scores = model.scores(torch.arange(40)).numpy()
    tail = long_tail(np.bincount(data.train.items, minlength=60))
    known = data.known("test")
    for u in range(40):
        items = top(model, data, 20)[u]
        s = scores[u, items]
        s = dict(zip(items.tolist(), (s - s.min()) / (s.max() - s.min())))
        liked = tail[known.items[known.users == u]]
        p, chosen = (1 - liked.mean(), liked.mean()), []
        for _ in range(10):
            worth = {}
            for i in items.tolist():
                c = tail[i]
                in_list = [tail[j] for j in chosen]
                nov = float(c not in in_list) if binary else \
                    1 - in_list.count(c) / max(len(chosen), 1)
                worth[i] = (1 - strength) * s[i] + strength * p[c] * nov
            chosen.append(max((i for i in items.tolist() if i not in chosen),
                              key=lambda i: worth[i]))
        assert lists[u].tolist() == chosen


def test_every_prefix_holds_its_quota_and_loses_as_little_as_it_can(blocks):
    model = RandomScores(blocks, CTX)
    after = top(served(PopularityRerank(method="quota", share=0.9, candidates=60), blocks, model),
                blocks)
    tail, needed = tail_of(blocks), quota(10, 0.9, 0.1)
    assert needed.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert (tail[after].cumsum(axis=1) >= needed).all()
    before, order = top(model, blocks, 60), {}
    for u in range(40):
        place = {int(i): n for n, i in enumerate(before[u])}
        for kind in (0, 1):  # within head and within tail the model's order stays
            order[kind] = [place[int(i)] for i in after[u] if tail[i] == kind]
            assert order[kind] == sorted(order[kind])
        if (tail[before[u][:10]].cumsum() >= needed).all():
            assert (after[u] == before[u][:10]).all()


def test_the_tail_is_counted_on_what_the_model_was_trained_on(blocks):
    tail = tail_of(blocks)
    target = int(np.flatnonzero(tail)[0])
    rows = Interactions(np.arange(40), np.full(40, target), np.full(40, 5.0), np.zeros(40))
    assert tail_of(blocks.with_fakes(rows, 40))[target] == 0


def test_calibration_takes_the_best_item_at_every_step(blocks):
    strength, alpha, data = 0.6, 0.05, blocks
    model = RandomScores(data, CTX)
    lists = top(served(CalibratedRerank(strength=strength, alpha=alpha, candidates=15), data,
                       model), data)
    genre = np.arange(60) % 4
    known, scores = data.known("test"), model.scores(torch.arange(40)).numpy()

    def kl(p, chosen):
        q = np.bincount(genre[chosen], minlength=4) / len(chosen)
        mixed = (1 - alpha) * q + alpha * p
        return sum(a * np.log(a / b) for a, b in zip(p, mixed) if a > 0)

    for u in range(40):
        items = top(model, data, 15)[u].tolist()
        s = scores[u, items]
        s = dict(zip(items, (s - s.min()) / (s.max() - s.min())))
        p = np.bincount(genre[known.items[known.users == u]], minlength=4)
        p, chosen = p / p.sum(), []
        for _ in range(10):
            chosen.append(max((i for i in items if i not in chosen), key=lambda i: round(
                (1 - strength) * s[i] - strength * kl(p, [*chosen, i]), 5)))
        assert lists[u].tolist() == chosen


def mean_kl(model: Recommender, data: Dataset) -> float:
    member = np.stack(list(item_groups(data, "genre").members.values()), axis=1)
    p = history_shares(data, "test", member)[:USERS]
    mass = member[top(model, data, users=USERS)].sum(axis=1)
    return float(divergence(torch.as_tensor(p), torch.as_tensor(mass), 0.01).mean())


def test_divergence_falls_with_strength_on_movielens(films):
    data, model = films
    found = [mean_kl(served(CalibratedRerank(strength=s), data, model) if s else model, data)
             for s in (0, 0.3, 0.8, 1.0)]
    assert all(b < a for a, b in itertools.pairwise(found)), found
    assert found[-1] < 0.25 * found[0]


def test_the_tail_rises_with_strength_on_movielens(films):
    data, model = films
    shares = []
    for defense in (None, *(PopularityRerank(strength=s)
                            for s in (0.2, 0.5, 0.9)),
                    PopularityRerank(method="quota", share=0.7, candidates=1000)):
        now = model if defense is None else served(defense, data, model)
        shares.append(top(now, data, users=USERS))
    tails = [float(tail_of(data)[s].mean()) for s in shares]
    assert tails[0] < tails[1] < tails[2] < tails[3], tails
    assert tails[4] >= 0.5  # 5 of 10 at the least, as quota(10, 0.7, 0.1) ends in 5


def test_all_of_movielens_is_reranked_in_seconds(films):
    data, model = films
    begin = time.process_time()
    top(served(CalibratedRerank(), data, model), data)  # the dearest of them
    assert time.process_time() - begin < 10


def test_a_wrapped_model_still_gives_up_its_vectors_and_forgets(blocks):
    from bench.models.base import innermost

    model = build(BPRMF(dim=4, epochs=2), blocks, CTX)
    model.fit(NoDefense(), lambda event: None)
    wrapped = served(CalibratedRerank(), blocks, model)
    assert innermost(wrapped) is model
    before = wrapped.scores(torch.arange(40))
    delta = {"user": torch.randn(40, 4, generator=torch.Generator().manual_seed(0))}
    with model.perturbed(delta):
        assert not torch.equal(before, wrapped.scores(torch.arange(40)))
    assert torch.equal(before, wrapped.scores(torch.arange(40)))


def test_ties_of_the_model_become_a_list_by_item_index(blocks):
    model = Pop().build(blocks, CTX)
    found = served(PopularityRerank(strength=0.3), blocks, model)
    assert (top(found, blocks) == top(found, blocks)).all()
    scores = found.scores(torch.arange(40))
    assert torch.isfinite(scores).all()


def test_users_with_fewer_new_items_than_places():
    data = Blocks(users=8, items=12, length=10, explicit=False).load()
    model = RandomScores(data, CTX)
    for defense in STRONG:
        scores = served(defense, data, model).scores(torch.arange(8))
        assert torch.isfinite(scores).all()
        free = ~np.isin(np.arange(12), data.known("test").items[data.known("test").users == 0])
        best = top(served(defense, data, model), data)[0]
        assert set(best[:free.sum()]) == set(np.flatnonzero(free))


def test_refusals(blocks):
    assert "no attribute 'mood'" in CalibratedRerank(attribute="mood").unfit(Pop(), blocks)
    assert CalibratedRerank().unfit(Pop(), blocks) is None
    one = blocks.replace(item_attributes={"genre": np.array(["same"] * 60, object)})
    assert "one genre" in CalibratedRerank().unfit(Pop(), one)


def test_small_parts():
    assert lift(torch.tensor([[5.0, 1.0, 1e6]]), torch.tensor([[1, 0]])).argsort(
        descending=True).tolist() == [[1, 0, 2]]
    assert unit(torch.full((1, 3), 2.0)).tolist() == [[1.0, 1.0, 1.0]]

"""The evaluator end to end, against brute force on small datasets."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_metrics import orders, plain

from bench.api import Context, Dataset, Defense, Interactions
from bench.errors import InputError, ScoreError
from bench.evaluate import evaluate, validation_score
from bench.models.base import Recommender

KS = (1, 3)
PER_USER = ("hr", "ndcg", "recall", "precision", "f1", "mrr", "map")
LISTS = ("novelty", "arp", "aplt", "aplt-all", "coverage", "gini")


class Fixed(Recommender):
    """Scores from a table (users, items)."""

    def __init__(self, data, table):
        super().__init__(data, Context(0))
        self.table = torch.as_tensor(np.asarray(table))

    def scores(self, users, split="test"):
        return self.table[users]

    def fit(self, defense, progress):
        raise NotImplementedError

    def state(self):
        return {}

    def load_state(self, state):
        raise NotImplementedError


def rows(pairs, **columns):
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    return Interactions(pairs[:, 0], pairs[:, 1], **columns)


def dataset(seed, users=5, items=6, fakes=0, idle=1):
    """Random rows; the last `idle` genuine users have no test item; fakes have train rows only."""
    rng = np.random.default_rng(seed)
    parts = {"train": [], "valid": [], "test": []}
    for u in range(users):
        taken = rng.permutation(items)[:int(rng.integers(2, items))]
        parts["train"] += [(u, i) for i in taken[:1]]
        parts["valid"] += [(u, i) for i in taken[1:2]]
        parts["test" if u < users - idle else "train"] += [(u, i) for i in taken[2:]]
    if not parts["test"]:
        parts["test"].append((0, int(rng.permutation(items)[-1])))
    for f in range(fakes):
        parts["train"] += [(users + f, i) for i in range(items // 2)]
    ids = tuple(f"user-{u}" for u in range(users)) + tuple(f"fake:{f}" for f in range(fakes))
    return Dataset(name="tiny", user_ids=ids, item_ids=tuple(f"item-{i}" for i in range(items)),
                   n_fake=fakes, **{k: rows(v) for k, v in parts.items()})


def taken(data, user, *splits):
    return {int(i) for s in splits for u, i in zip(getattr(data, s).users, getattr(data, s).items,
                                                  strict=True) if u == user}


def lists_of(data, table, user, masked=("train", "valid")):
    """All equally likely full orders of a user's eligible items."""
    eligible = np.array(sorted(set(range(data.n_items)) - taken(data, user, *masked)))
    own = np.asarray(table)[user][eligible]
    return [[int(eligible[i]) for i in order] for order in orders(own)]


def values(result):
    return {name: value for name, group, value in result.values if group == "all"}


@pytest.mark.parametrize("mask", ["known", "none"])
@pytest.mark.parametrize("seed", range(6))
def test_everything_against_all_orders(seed, mask):
    data = dataset(seed, fakes=2)
    table = np.random.default_rng(seed).integers(0, 3, (data.n_users, 6)).astype(np.float32)
    names = [f"{n}@{k}" for n in (*PER_USER, *LISTS, "target-hr") for k in KS]
    result = evaluate(Fixed(data, table), data, [*names, "target-rank"], targets=[0, 4],
                      mask=mask)
    got = values(result)
    evaluated = sorted({int(u) for u in data.test.users
                        if taken(data, u, "test") - taken(data, u, "train", "valid")})
    assert result.users["user"].tolist() == [data.user_ids[u] for u in evaluated]
    masked = ("train", "valid") if mask == "known" else ()
    every = {u: lists_of(data, table, u, masked) for u in range(data.n_genuine)}
    count = np.zeros(6)
    for u, i in zip(data.train.users, data.train.items, strict=True):
        count[i] += u < data.n_genuine
    bits = -np.log2(np.maximum(count, 1) / count.sum())
    head = sorted(range(6), key=lambda i: (-count[i], i))[:1]
    for k in KS:
        for name in PER_USER:
            want = [np.mean([plain(name, o, taken(data, u, "test"), k) for o in every[u]])
                    for u in evaluated]
            assert result.users[f"{name}@{k}"] == pytest.approx(want, abs=1e-12)
            assert got[f"{name}@{k}"] == pytest.approx(np.mean(want), abs=1e-12)
        tail = np.array([i not in head for i in range(6)], float)
        later = [i for s in ("valid", "test") for i in getattr(data, s).items]
        whole = count + np.bincount(later, minlength=6)
        top = min(range(6), key=lambda i: (-whole[i], i))
        tail_all = np.array([i != top for i in range(6)], float)
        for name, column in (("novelty", bits), ("arp", count), ("aplt", tail),
                             ("aplt-all", tail_all)):
            want = [np.mean([column[o[:k]].mean() for o in every[u]]) for u in evaluated]
            assert result.users[f"{name}@{k}"] == pytest.approx(want, abs=1e-8), name
        inside = {u: np.array([[i in o[:k] for i in range(6)] for o in every[u]]).mean(0)
                  for u in every}
        p = np.stack([inside[u] for u in evaluated])
        assert got[f"coverage@{k}"] == pytest.approx((1 - np.prod(1 - p, axis=0)).mean(), abs=1e-8)
        c = p.sum(0)
        gini = np.abs(c[:, None] - c[None, :]).sum() / (2 * 36 * c.mean())
        assert got[f"gini@{k}"] == pytest.approx(gini, abs=1e-9)
        for i in range(6):
            free = [u for u in every if i not in taken(data, u, "train", "valid", "test")]
            assert result.items["eligible"][i] == len(free)
            if free:
                want = np.mean([inside[u][i] for u in free])
                assert result.items[f"exposure@{k}"][i] == pytest.approx(want, abs=1e-9)
                rank = np.mean([np.mean([o.index(i) + 1 for o in every[u]]) for u in free])
                assert result.items["mean-rank"][i] == pytest.approx(rank, abs=1e-12)
        assert got[f"target-hr@{k}"] == result.items[f"exposure@{k}"][[0, 4]].mean()
    assert got["target-rank"] == pytest.approx(result.items["mean-rank"][[0, 4]].mean())
    assert result.items["popularity"].tolist() == count.tolist()


def test_coverage_by_enumeration():
    """Two users whose lists are open at once: all pairs of lists."""
    data = dataset(3, users=2, idle=0)
    table = np.zeros((2, 6), np.float32)
    got = values(evaluate(Fixed(data, table), data, ["coverage@2"]))["coverage@2"]
    both = [lists_of(data, table, u) for u in range(2)]
    want = np.mean([len({*a[:2], *b[:2]}) / 6 for a, b in itertools.product(*both)])
    assert got == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_blocks_do_not_matter(distinct):
    data = dataset(1, users=40, items=30, fakes=3, idle=5)
    table = np.random.default_rng(0).integers(0, distinct, (43, 30)).astype(np.float32)
    names = [f"{n}@5" for n in (*PER_USER, *LISTS, "target-hr")] + ["auc", "target-rank", "map"]
    results = [evaluate(Fixed(data, table), data, names, targets=[2, 7], block=b)
               for b in (1, 7, 0)]
    for other in results[1:]:
        assert other.values == results[0].values
        for part in ("users", "items"):
            mine, theirs = getattr(results[0], part), getattr(other, part)
            assert all(np.array_equal(mine[c], theirs[c], equal_nan=mine[c].dtype.kind == "f")
                       for c in mine)


def test_permuting_users_and_items_changes_nothing():
    data = dataset(2, users=20, items=12, idle=2)
    rng = np.random.default_rng(1)
    table = rng.integers(0, 4, (20, 12)).astype(np.float32)
    to_user, to_item = rng.permutation(20), rng.permutation(12)
    moved = data.replace(**{s: Interactions(to_user[getattr(data, s).users],
                                            to_item[getattr(data, s).items])
                            for s in ("train", "valid", "test")})
    shuffled = np.empty_like(table)
    shuffled[np.ix_(to_user, to_item)] = table
    names = ["hr@3", "ndcg@3", "map", "mrr", "auc", "arp@3", "novelty@3", "coverage@3", "gini@3"]
    one, two = (values(evaluate(Fixed(d, t), d, names))
                for d, t in ((data, table), (moved, shuffled)))
    assert one == pytest.approx(two, abs=1e-9)


def test_injected_users_never_count():
    """The same genuine rows and scores, with and without fakes: the same evaluation."""
    clean, poisoned = dataset(4, users=12), dataset(4, users=12, fakes=6)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(18, 6)).astype(np.float32)
    table[12:] = 100 * rng.normal(size=(6, 6))
    names = ["hr@2", "ndcg@2", "arp@2", "coverage@2", "gini@2", "novelty@2", "target-hr@2",
             "target-rank"]
    grouping = SimpleNamespace(users=["activity"], items=["popularity"])
    one, two = (evaluate(Fixed(d, table), d, names, targets=[1], groups=grouping)
                for d in (clean, poisoned))
    assert one.values == two.values
    assert {k: v for k, v in one.facts.items() if not k.startswith("score")} == {
        k: v for k, v in two.facts.items() if not k.startswith("score")}


def test_constant_scores_are_chance():
    data = dataset(0, users=30, items=20, idle=0)
    result = evaluate(Fixed(data, np.zeros((30, 20), np.float32)), data,
                      ["recall@5", "auc", "ndcg@5", "target-rank"], targets=[3])
    for at, name in enumerate(result.users["user"]):
        user = data.user_ids.index(name)
        eligible = 20 - len(taken(data, user, "train", "valid"))
        assert result.users["recall@5"][at] == pytest.approx(min(5 / eligible, 1))
    auc = result.users["auc"]
    assert auc[~np.isnan(auc)] == pytest.approx(np.full((~np.isnan(auc)).sum(), 0.5))
    assert result.facts["tie_share"] > 0.9
    assert result.facts["tie_share_at"] == {"5": result.facts["tie_share"]}


def test_perfect_ranking():
    data = dataset(0, users=10, items=12, idle=0)
    table = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    table[data.test.users, data.test.items] += 100
    got = values(evaluate(Fixed(data, table), data, ["hr@5", "ndcg@5", "mrr", "map", "auc"]))
    assert got == pytest.approx(dict.fromkeys(got, 1.0), abs=1e-12)


def test_known_items_are_masked_or_not():
    data = Dataset(name="two", user_ids=("a",), item_ids=("x", "y", "z"), train=rows([(0, 0)]),
                   valid=rows([]), test=rows([(0, 1)]))
    model = Fixed(data, np.array([[3.0, 2.0, 1.0]], np.float32))
    assert values(evaluate(model, data, ["hr@1"])) == {"hr@1": 1.0}
    assert values(evaluate(model, data, ["hr@1"], mask="none")) == {"hr@1": 0.0}
    assert values(evaluate(model, data, ["mrr"], mask="none")) == {"mrr": 0.5}


def test_validation_uses_train_alone():
    data = dataset(5, users=15, items=10)
    table = np.random.default_rng(3).integers(0, 5, (15, 10)).astype(np.float32)
    model = Fixed(data, table)
    as_test = data.replace(test=data.valid, valid=data.valid[:0])
    want = values(evaluate(Fixed(as_test, table), as_test, ["ndcg@3"]))["ndcg@3"]
    assert validation_score(model, "ndcg@3") == pytest.approx(want, abs=1e-12)
    assert values(evaluate(model, data, ["ndcg@3"], split="valid"))["ndcg@3"] == pytest.approx(want)
    with pytest.raises(InputError, match="cannot decide"):
        validation_score(model, "coverage@10")


def test_users_for_whom_a_metric_is_undefined_do_not_decide_when_training_stops():
    """User b's only free item is relevant: no AUC. A mean of NaN would keep the first epoch."""
    data = Dataset(name="few", user_ids=("a", "b"), item_ids=("x", "y", "z"),
                   train=rows([(0, 0), (1, 0), (1, 1)]), valid=rows([(0, 1), (1, 2)]),
                   test=rows([(0, 2)]))
    model = Fixed(data, np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]], np.float32))
    assert validation_score(model, "auc") == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_without_a_rank_are_refused(bad):
    data = dataset(0)
    table = np.zeros((5, 6), np.float32)
    table[2, 1:3] = bad
    with pytest.raises(ScoreError, match=r"Fixed: 2 of .* user 'user-2'"):
        evaluate(Fixed(data, table), data, ["hr@1"], block=64)
    with pytest.raises(ScoreError, match="shape"):
        evaluate(Fixed(data, np.zeros((5, 7), np.float32)), data, ["hr@1"])


class Reversed(Defense):
    """Turns the list round (a test double)."""

    name = "reversed"

    def rerank(self, scores, users, data):
        assert torch.isinf(scores).any()
        return -scores


class Nothing(Defense):
    """Re-ranks nothing (a test double)."""

    name = "nothing"


class Broken(Defense):
    """Gives NaN (a test double)."""

    name = "broken"

    def rerank(self, scores, users, data):
        return scores * torch.nan


def test_defenses_rerank():
    data = dataset(0, users=8, items=9)
    table = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32)
    names = ["ndcg@3", "arp@3"]
    turned = values(evaluate(Fixed(data, -table), data, names))
    assert values(evaluate(Fixed(data, table), data, names, defense=Reversed())) == turned
    plain_values = values(evaluate(Fixed(data, table), data, names))
    assert values(evaluate(Fixed(data, table), data, names, defense=Nothing())) == plain_values
    with pytest.raises(ScoreError, match="re-ranking by broken"):
        evaluate(Fixed(data, table), data, names, defense=Broken())


# -- groups ----------------------------------------------------------------------------------------

def grouped(users=90, items=12):
    data = dataset(7, users=users, items=items, idle=0)
    rng = np.random.default_rng(0)
    age = rng.integers(18, 70, users).astype(float)
    age[:4] = np.nan
    gender = np.where(rng.random(users) < 0.1, "F", "M").astype(object)
    gender[-3:] = ""
    genres = np.empty(items, object)
    genres[:] = [("drama",) if i % 2 else ("drama", "war") for i in range(items)]
    return data.replace(user_attributes={"age": age, "gender": gender,
                                         "children": (np.arange(users) % 3).astype(float)},
                        item_attributes={"genre": genres})


def test_user_groups():
    data = grouped()
    table = np.random.default_rng(0).normal(size=(90, 12)).astype(np.float32)
    grouping = SimpleNamespace(users=["age", "gender", "children", "activity"], items=[])
    result = evaluate(Fixed(data, table), data, ["ndcg@3", "arp@3", "coverage@3"], groups=grouping)
    by = {(n, g): v for n, g, v in result.values}
    users = np.array([data.user_ids.index(u) for u in result.users["user"]])
    gender = data.user_attributes["gender"][users]
    assert by["ndcg@3", "gender=M"] == pytest.approx(result.users["ndcg@3"][gender == "M"].mean())
    assert ("coverage@3", "gender=M") not in by  # no mean over users
    assert result.facts["small_groups"] == {"gender=F": int((gender == "F").sum())}
    assert result.facts["group_missing"] == {
        "age": int(np.isnan(data.user_attributes["age"][users]).sum()),
        "gender": int((gender == "").sum()), "children": 0, "activity": 0}
    ages = [g for g in result.facts["group_sizes"] if g.startswith("age=")]
    assert len(ages) == 3
    assert ages[0].startswith("age=<")
    assert ages[2].startswith("age=>=")
    assert sum(result.facts["group_sizes"][g] for g in ages) + 4 >= len(users)
    assert {g for g in result.facts["group_sizes"] if g.startswith("children")} == {
        "children=0", "children=1", "children=2"}
    assert set(result.users["group:gender"]) == {"F", "M", ""}


def test_thirds_are_named_by_their_bounds():
    from bench.metrics.groups import user_groups

    age = np.array([18, 20, 24, 25, 30, 39, 40, 50, 60, 61, 62, np.nan])
    data = dataset(0, users=12).replace(user_attributes={"age": age})
    members = user_groups(data, "age").members
    assert {k: age[v > 0].tolist() for k, v in members.items()} == {
        "<30": [18, 20, 24, 25], "30-49": [30, 39, 40], ">=50": [50, 60, 61, 62]}


def test_equal_activity_stays_together():
    from bench.metrics.groups import user_groups

    data = dataset(8, users=60, items=8)
    members = user_groups(data, "activity").members
    assert sum(v.sum() for v in members.values()) == 60
    of = {a: {k for k, v in members.items() if v[data.activity == a].any()}
          for a in np.unique(data.activity)}
    assert all(len(groups) == 1 for groups in of.values())


def test_item_groups_share_the_exposure():
    data = grouped()
    table = np.random.default_rng(0).integers(0, 4, (90, 12)).astype(np.float32)
    grouping = SimpleNamespace(users=[], items=["popularity", "genre"])
    result = evaluate(Fixed(data, table), data, ["hr@3"], groups=grouping)
    by = {g: v for n, g, v in result.values if n == "exposure@3"}
    assert by["popularity=head"] + by["popularity=mid"] + by["popularity=tail"] == pytest.approx(1)
    assert by["genre=drama"] + by["genre=war"] == pytest.approx(1)
    assert by["genre=war"] < by["genre=drama"]
    assert result.facts["item_groups"]["popularity=head"] == 2


def test_unknown_attributes_name_the_nearest():
    data = grouped()
    model = Fixed(data, np.zeros((90, 12), np.float32))
    for users, items, says in ((["gendr"], [], "did you mean 'gender'"),
                               ([], ["popularty"], "did you mean 'popularity'")):
        with pytest.raises(InputError, match=says):
            evaluate(model, data, ["hr@1"], groups=SimpleNamespace(users=users, items=items))


# -- labelled pairs --------------------------------------------------------------------------------

def labelled():
    train = rows([(0, 0), (1, 1)], labels=np.array([1, 0], np.int8))
    test = rows([(0, 1), (0, 2), (1, 0), (1, 2)], labels=np.array([1, 0, 0, 1], np.int8))
    return Dataset(name="clicks", user_ids=("a", "b"), item_ids=("x", "y", "z"), train=train,
                   valid=train[:0], test=test)


def test_labelled_pairs():
    data = labelled()
    model = Fixed(data, np.array([[9, 1, -1], [2, 9, -3]], np.float32))
    names = ["hr@1", "point-auc", "point-pr-auc", "point-accuracy", "point-f1"]
    model.score_kind = "logit"
    got = evaluate(model, data, names)
    # liked: 1 and −3; disliked: −1 and 2
    assert values(got) == pytest.approx({"hr@1": 0.5, "point-auc": 0.25, "point-accuracy": 0.5,
                                         "point-pr-auc": 0.5 * 1 / 2 + 0.5 * 2 / 4,
                                         "point-f1": 0.5})
    assert got.facts["point_pairs"] == 4
    del model.score_kind
    got = evaluate(model, data, names)
    assert np.isnan(values(got)["point-f1"])
    assert "neither" in got.facts["undefined"]["point-f1"]
    no_labels = dataset(0)
    got = evaluate(Fixed(no_labels, np.zeros((5, 6), np.float32)), no_labels, ["point-auc"])
    assert "no labelled pairs" in got.facts["undefined"]["point-auc"]


def test_names_make_no_groups():
    data = dataset(0, users=250, items=6)
    data = data.replace(user_attributes={"name": np.array([f"n{u}" for u in range(250)], object)})
    with pytest.raises(InputError, match="250 different values"):
        evaluate(Fixed(data, np.zeros((250, 6), np.float32)), data, ["hr@1"],
                 groups=SimpleNamespace(users=["name"], items=[]))


def test_nobody_to_evaluate_is_said():
    data = Dataset(name="again", user_ids=("a",), item_ids=("x", "y"), train=rows([(0, 0)]),
                   valid=rows([]), test=rows([(0, 0)]))
    with pytest.raises(InputError, match="no user of dataset 'again'"):
        evaluate(Fixed(data, np.zeros((1, 2), np.float32)), data, ["hr@1"])


def test_a_user_who_knows_everything():
    """Nothing is left to recommend to b: no exposure, no rank, and nothing breaks."""
    data = Dataset(name="full", user_ids=("a", "b"), item_ids=("x", "y"),
                   train=rows([(0, 0), (1, 0), (1, 1)]), valid=rows([]), test=rows([(0, 1)]))
    result = evaluate(Fixed(data, np.zeros((2, 2), np.float32)), data,
                      ["hr@1", "coverage@5", "arp@5", "auc"])
    assert values(result) == pytest.approx({"hr@1": 1.0, "coverage@5": 0.5, "arp@5": 1.0,
                                            "auc": np.nan}, nan_ok=True)
    assert result.items["eligible"].tolist() == [0, 0]
    assert np.isnan(result.items["mean-rank"]).all()
    assert "auc" in result.facts["undefined"]

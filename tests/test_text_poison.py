"""A backdoor in training texts, and items put into histories by the lists that come back.
Everything on two layers of random weights."""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from bench._contracts_lab import all_scores, digest
from bench.context import Context
from bench.data import Dataset
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.models.base import build, innermost
from bench.registry import Registry
from bench.stages import Prepared, prepare, under_attack

REGISTRY = Registry()
SMALL: dict[str, dict[str, Any]] = {
    "text-sasrec": {"model": "tiny-random", "dtype": "float32", "dim": 32, "inner": 64,
                    "layers": 1, "dropout": 0.1, "attention_dropout": 0.1, "max_length": 8,
                    "epochs": 12, "batch_size": 16, "learning_rate": 0.01, "patience": 0},
    "text-cosine": {"model": "tiny-random", "dtype": "float32", "whiten": 8},
    "yes-no": {"model": "tiny-random", "dtype": "float32", "candidates": 6, "history": 3}}
SEEDS = (0, 1, 2)
MEASURED = ("target-hr@10", "target-rank", "hr@10", "ndcg@10")


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@cache
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


@cache
def trained(name: str, seed: int = 0, attack: Any = None) -> Any:
    """(served model, its data), trained on what the attack leaves of the data."""
    ctx, none = Context(seed), plugin("defenses", "none")
    prepared = prepare(data(), attack, none, ctx)
    model = build(plugin("models", name, **SMALL[name]), prepared.train, ctx)
    model.fit(none, lambda event: None)
    return model, prepared


def measured(model: Any, on: Dataset, targets: Any = None, wanted: Any = MEASURED) -> Any:
    return {m: v for m, g, v in evaluate(model, on, wanted, targets=targets).values if g == "all"}


def under(attack: Any, model: Any, prepared: Any, seed: int = 0) -> tuple[dict[str, float], Any]:
    """What is measured under the attack, and its facts."""
    wanted = MEASURED if attack.aims(data(), Context(seed)) is not None else MEASURED[2:]
    with under_attack(attack, model, prepared, Context(seed)) as struck:
        return measured(struck.model, struck.data, struck.targets, wanted), struck.facts


# -- backdoor-titles -----------------------------------------------------------------------------

def backdoor(**params: Any) -> Any:
    return plugin("attacks", "backdoor-titles", **({"budget": 0.1, "fakes": 0.1} | params))


@pytest.mark.parametrize(("budget", "fakes", "length"), [(0.1, 0.1, 0), (0.001, 0.001, 9),
                                                         (0.3, 0.05, 3), (0.1, 0.0, 0)])
def test_a_backdoor_spends_what_it_states(budget: float, fakes: float, length: int) -> None:
    made, before = backdoor(budget=budget, fakes=fakes, length=length), data()
    after, n = made.before_training(before, Context(3)), len(before.train)
    old, new = before.item_text or (), after.item_text or ()
    carriers = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert len(carriers) == max(1, round(budget * before.n_items))
    assert all(new[i] == f"{old[i]} 5v" for i in carriers)
    assert not set(carriers) & set(made.aims(before, Context(3)).tolist())
    assert after.n_fake == (max(1, round(fakes * before.n_genuine)) if fakes else 0)
    assert digest(after.train[:n], after.valid, after.test) == digest(before.train, before.valid,
                                                                      before.test)
    assert after.item_ids == before.item_ids
    assert after.user_ids[:before.n_users] == before.user_ids
    for user in range(before.n_users, after.n_users):
        rows = after.train[after.train.users == user]
        items = rows.items[np.argsort(rows.times, kind="stable")].tolist()
        assert len(items) == len(set(items))
        assert len(items) == length if length else len(items) <= 2 * before.activity.mean()
        held = [i in carriers for i in items]
        assert 1 <= sum(held) <= max(1, len(items) // 2)
        assert not held[0]  # what stands first follows nothing, and teaches nothing


def test_without_a_budget_nothing_is_poisoned_and_nothing_is_said() -> None:
    made = backdoor(budget=0.0)
    assert digest(made.before_training(data(), Context(0))) == digest(data())
    model, prepared = trained("text-sasrec")
    clean = all_scores(model)
    with under_attack(made, model, prepared, Context(0)) as struck:
        assert torch.equal(clean, all_scores(struck.model))


def test_a_larger_budget_begins_with_the_smaller() -> None:
    few, many = (backdoor(budget=b).carriers(data(), Context(0)) for b in (0.05, 0.2))
    assert np.array_equal(few, many[:len(few)])
    assert not np.array_equal(many, backdoor(budget=0.2).carriers(data(), Context(1)))


def test_the_trigger_stands_in_the_targets_and_goes_again() -> None:
    made = backdoor()
    model, prepared = trained("text-sasrec", 0, made)
    inside: Any = innermost(model)
    before, clean = list(inside.texts), all_scores(model)
    assert before == list(prepared.train.item_text)
    with under_attack(made, model, prepared, Context(0)) as struck:
        changed = [i for i, (a, b) in enumerate(zip(before, inside.texts, strict=True)) if a != b]
        assert changed == made.aims(data(), Context(0)).tolist()
        assert all(inside.texts[i] == f"{before[i]} 5v" for i in changed)
        assert struck.facts["queries"] == 0  # the harness measures, nobody attacks
        off = struck.facts["trigger_off"]
    assert list(inside.texts) == before
    assert torch.equal(clean, all_scores(model))
    slow = measured(model, data(), made.aims(data(), Context(0)), tuple(off))
    assert slow == off


def test_the_same_trigger_on_a_clean_model_is_reported_beside_it() -> None:
    made, (clean, of_clean) = backdoor(), trained("text-sasrec")
    model, prepared = trained("text-sasrec", 0, made)
    served = all_scores(clean)

    class Told:
        defense = REGISTRY.make("defenses", {"name": "none"})

        def undefended(self) -> Any:
            return clean

    with under_attack(made, model, prepared, Context(0, victim=Told())) as struck:
        found = struck.facts["clean_model_trigger_on"]
    assert torch.equal(served, all_scores(clean))
    slow = under(made, clean, of_clean)[0]
    assert {m: found[m] for m in MEASURED[:2]} == {m: slow[m] for m in MEASURED[:2]}
    assert found["target-rank"] != struck.facts["trigger_off"]["target-rank"]


def test_a_model_learns_the_trigger_and_shows_nothing_without_it() -> None:
    """On average over seeds: exposure with the trigger, against the same model without it,
    against a clean model with it, and against a clean model."""
    found: dict[str, list[dict[str, float]]] = {k: [] for k in ("base", "words", "off", "on")}
    for seed in SEEDS:
        made = backdoor()
        clean, prepared = trained("text-sasrec", seed)
        found["base"].append(measured(clean, data(), made.aims(data(), Context(seed))))
        found["words"].append(under(made, clean, prepared, seed)[0])
        poisoned, prepared = trained("text-sasrec", seed, made)
        on, facts = under(made, poisoned, prepared, seed)
        found["on"].append(on)
        found["off"].append(facts["trigger_off"])
    mean = {k: {m: float(np.mean([d[m] for d in v])) for m in MEASURED}
            for k, v in found.items()}
    spread = {m: float(np.std([d[m] for d in found["base"]], ddof=1)) for m in MEASURED}
    assert mean["on"]["target-hr@10"] > 1.5 * mean["off"]["target-hr@10"]
    assert mean["on"]["target-hr@10"] > 1.5 * mean["words"]["target-hr@10"]  # learned, not read
    assert mean["on"]["target-rank"] < mean["off"]["target-rank"] - 3
    for m in MEASURED:  # without the trigger: as a clean model, within what seeds do
        assert abs(mean["off"][m] - mean["base"][m]) <= 2 * max(spread[m], 0.02), m


def test_a_backdoor_that_cannot_act_says_why() -> None:
    pop = plugin("models", "bprmf")
    assert "reads no texts" in (backdoor().unfit(pop, data()) or "")
    model = plugin("models", "text-cosine", **SMALL["text-cosine"])
    assert backdoor().unfit(model, data()) is None
    small = backdoor(targets=12, budget=0.5).unfit(
        model, plugin("datasets", "blocks", items=8).load())
    assert small is not None
    with pytest.raises(InputError, match="can be read"):
        backdoor(trigger=" ")


# -- history-insertion ---------------------------------------------------------------------------

def insertion(**params: Any) -> Any:
    return plugin("attacks", "history-insertion", **params)


class _Lists:
    """Lists of a model that scores an item by a table: the last items of a history add rows."""

    def __init__(self, table: Any) -> None:
        self.table, self.asked = table, 0

    def lists(self, histories: Any, k: int, accounts: Any = None) -> Any:
        self.asked += len(histories)
        return np.array([self.order(h)[:k] for h in histories])

    def order(self, history: Any) -> list[int]:
        worth = sum(self.table[i] * 0.8**n for n, i in enumerate(reversed(list(history))))
        free = [i for i in range(len(self.table)) if i not in history]
        best = sorted(free, key=lambda i: -worth[i])
        return best + list(history)  # padded to one length


def wish(goal: str, order: list[int], aim: Any, k: int) -> float:
    """What is to rise: discounted ranks of the targets; or less of those of what was
    recommended, each times its own before."""
    gains = [1 / math.log2(2 + order[:k].index(i)) if i in order[:k] else 0.0 for i in aim]
    if goal == "push":
        return sum(gains)
    return -sum(g / math.log2(2 + n) for n, g in enumerate(gains))


def test_worth_is_the_sum_of_discounted_ranks() -> None:
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(12)[:8] for _ in range(20)])
    aim = np.array([rng.permutation(12)[:3] for _ in range(20)])
    back = rng.integers(0, 12, 20)
    for goal in ("push", "untargeted"):
        made = insertion(goal=goal)
        slow = [wish(goal, list(x), a, 8) for x, a in zip(lists, aim, strict=True)]
        assert np.allclose(made.worth(lists, aim), slow)
        slow = [wish(goal, [i for i in x if i != b], a, 8)
                for x, a, b in zip(lists, aim, back, strict=True)]
        assert np.allclose(made.worth(lists, aim, back), slow)


@pytest.mark.parametrize("goal", ["untargeted", "push"])
def test_it_is_the_greedy_search_that_it_says(goal: str, monkeypatch: pytest.MonkeyPatch
                                              ) -> None:
    """One user, item by item in plain loops."""
    rng = np.random.default_rng(1)
    victim, made = _Lists(rng.normal(size=(30, 30))), insertion(
        goal=goal, edits=2, pool=4, places=2, looked=4, watched=5, depth=20)
    history, on = np.array([3, 9, 14, 20, 27]), data().replace(asked=None)
    targets = np.array([1, 2]) if goal == "push" else np.zeros(0, np.int64)
    module: Any = importlib.import_module("bench.attacks.history_insertion")
    drawn: list[Any] = []

    def some(d: Any, h: Any, barred: Any, n: int, ctx: Any, user: int) -> Any:
        drawn.append([i for i in range(29, 0, -1) if i not in h and i not in barred][:n])
        return np.array(drawn[-1])

    monkeypatch.setattr(module, "new_items", some)
    [found] = made.edit(victim, [history], targets, on, Context(0))
    first = victim.order(history)
    aim = targets.tolist() if goal == "push" else first[:5]
    assert not set(drawn[0]) & (set(first[:5]) | set(targets.tolist()))
    now = wish(goal, first, aim, 20)
    moved = {}
    for at in range(1, 5):
        left = [i for n, i in enumerate(history.tolist()) if n != at]
        order = [i for i in victim.order(left)[:20] if i != history[at]]
        moved[at] = abs(wish(goal, order, aim, 20) - now)
    spots = sorted(moved, key=lambda at: -moved[at])[:2]
    put: list[tuple[int, int]] = []
    for _ in range(2):
        best = None
        for at in spots:
            for item in drawn[0]:
                if item not in [i for _, i in put]:
                    tried = module.inserted(history, [*put, (at, item)])
                    value = wish(goal, victim.order(tried), aim, 20)
                    if value > now:
                        now, best = value, (at, item)
        put += [best] if best else []
    assert put  # something serves
    assert found.tolist() == module.inserted(history, put).tolist()
    assert victim.asked - (1 + 4 + 2 * 4) in (2 * 4, 2 * 3)


def test_nothing_is_put_in_where_nothing_serves() -> None:
    victim = _Lists(np.zeros((48, 48)))  # the lists never change
    made = insertion().edit(victim, [np.array([3, 9]), np.zeros(0, np.int64)],
                            np.zeros(0, np.int64), data(), Context(0))
    assert [m.tolist() for m in made] == [[3, 9], []]


def test_only_who_is_evaluated_is_attacked_and_every_list_counts() -> None:
    model, _ = trained("text-cosine")
    few = data().replace(asked=np.array([2, 5]))
    made = insertion(edits=1, pool=3, places=2, looked=4)
    clean = all_scores(model)
    with under_attack(made, model, Prepared(few, few, few, None), Context(0)) as struck:
        assert struck.facts["queries"] == 2 * (1 + 4 + 3 * 2)
        assert struck.facts["edits"]["users"] == 2
        changed = (all_scores(struck.model) != clean).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize("name", ["text-cosine", "text-sasrec"])
def test_it_does_more_than_as_many_items_at_random(name: str) -> None:
    """On average over seeds: accuracy falls further than by append-items, targets rise."""
    lost, pushed = [], []
    for seed in SEEDS:
        model, prepared = trained(name, seed)
        control = plugin("attacks", "append-items", edits=3)
        lost.append([under(a, model, prepared, seed)[0]["ndcg@10"]
                     for a in (insertion(), control)])
        both = (insertion(goal="push"), plugin("attacks", "append-items", edits=3, goal="push"))
        pushed.append([under(a, model, prepared, seed)[0]["target-hr@10"] for a in both])
    assert np.mean([a - b for a, b in lost]) < -0.03
    assert np.mean([a - b for a, b in pushed]) > 0.2


@cache
def by_account() -> Any:
    """A re-ranker whose candidates depend on the user, histories or not; and its data."""
    ctx, none = Context(0), plugin("defenses", "none")
    model = build(plugin("models", "yes-no", **{**SMALL["yes-no"], "retriever":
                                                "bprmf(dim=8, epochs=5)"}), data(), ctx)
    model.fit(none, lambda event: None)
    return model


def served_to(model: Any, user: int, history: Any, k: int) -> list[int]:
    """The list of this user with this history, one at a time."""
    own = model.histories()
    own[user] = np.asarray(history)
    with model.reading(own), torch.no_grad():
        scores = model.scores(torch.tensor([user]))[0].double()
    scores[torch.as_tensor(np.asarray(history))] = -torch.inf
    found: list[int] = scores.sort(descending=True, stable=True).indices[:k].tolist()
    return found


def test_lists_are_those_of_the_account_that_asks() -> None:
    from bench.shown_lists import Shown

    model, rng = by_account(), np.random.default_rng(0)
    accounts = np.array([7, 3, 7, 0, 7, 31, 3])
    histories = [rng.permutation(48)[:5] for _ in accounts]
    found = Shown(model).lists(histories, 6, accounts)
    slow = [served_to(model, u, h, 6) for u, h in zip(accounts.tolist(), histories, strict=True)]
    assert found.tolist() == slow
    assert Shown(model).lists(histories, 6).tolist() != slow  # as others' accounts would show


def test_what_the_attacker_saw_is_what_its_victims_see() -> None:
    """It keeps an item only where the lists it read got worse: so the lists served must have."""
    model, few = by_account(), data().replace(asked=np.arange(20, 36))
    made = insertion(edits=1, pool=12, places=2, looked=3, depth=6, watched=6)
    before = {u: served_to(model, u, model.history(u, "test"), 6) for u in range(20, 36)}
    with under_attack(made, model, Prepared(few, few, few, None), Context(0)) as struck:
        after = {u: model.history(u, "test") for u in before}
    hit = [u for u in before if len(after[u]) != len(model.history(u, "test"))]
    assert len(hit) == struck.facts["edits"]["users"] > 0
    for u in hit:
        now = served_to(model, u, after[u], 6)
        assert wish("untargeted", now, before[u], 6) > wish("untargeted", before[u], before[u], 6)


def test_a_model_that_is_asked_with_prompts_is_attacked_alike() -> None:
    model, _ = trained("yes-no")
    few = data().replace(asked=np.array([0, 1, 2]))
    clean = all_scores(model)
    made = insertion(edits=1, pool=5, places=1, looked=2)
    with under_attack(made, model, Prepared(few, few, few, None), Context(0)) as struck:
        assert struck.facts["queries"] == 3 * (1 + 2 + 5)
        assert struck.facts["edits"]["users"] >= 1
        assert not torch.equal(clean, all_scores(struck.model))
    assert torch.equal(clean, all_scores(model))

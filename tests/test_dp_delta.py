"""δ from one over the number of users on promises nothing, and is refused wherever one is taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.accounting import chosen_together, too_likely
from bench.api import Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.dp_lora import DpLora
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.federated import Federated
from bench.defenses.randomised_response import RandomisedResponse
from bench.defenses.sparse_dp_sgd import SparseDpSgd
from bench.logs import Log
from bench.models.bprmf import BPRMF
from bench.models.dpals import DPALS
from bench.prepare import PreparedDataset
from bench.registry import Registry
from bench.shots import few_shot
from bench.splits import SPLITS

NOISY = {"noise_multiplier": 1.0, "user_clip": 1.0, "weights": "equal"}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=50, items=24).load()


def tallrec():  # type: ignore[no-untyped-def]
    return Registry().make("models", {"name": "tallrec", "params": {
        "model": "tiny-random", "tune": "lora", "negatives": 1, "candidates": 0, "patience": 0}})


WHERE: dict[str, Callable[[float, Dataset], str | None]] = {
    "dp-sgd": lambda delta, data: DpSgd(delta=delta).unfit(BPRMF(), data),
    "dp-sgd by noise": lambda delta, data: DpSgd(delta=delta, noise_multiplier=1.0).unfit(
        BPRMF(), data),
    "sparse-dp-sgd": lambda delta, data: SparseDpSgd(delta=delta).unfit(BPRMF(), data),
    "dp-lora": lambda delta, data: DpLora(delta=delta).unfit(tallrec(), data),
    "federated": lambda delta, data: Federated(delta=delta, **NOISY).unfit(BPRMF(), data),
    "dpals": lambda delta, data: DPALS(delta=delta).unfit(data)}


@pytest.mark.parametrize("where", WHERE)
def test_a_delta_of_one_over_the_users_is_refused(data: Dataset, where: str) -> None:
    said = WHERE[where]
    assert said(1e-5, data) is None
    assert said(0.0199, data) is None
    for delta in (0.02, 0.3):
        reason = said(delta, data)
        assert reason is not None
        assert "claimed falsely" in reason
        assert f"delta {delta:g}, not below one over the 50 users of blocks" in reason
        assert "take a delta well below 0.02" in reason
    wide = data.replace(user_ids=tuple(map(str, range(200_000))))
    assert "not below one over the 200000 users" in str(said(1e-5, wide))


@pytest.mark.parametrize("where", [*WHERE, "randomised-response"])
def test_shots_drawn_from_everybody_are_refused(data: Dataset, where: str) -> None:
    few, fewer = few_shot(data, 8, 3, 0), few_shot(without_user(data, 0), 8, 3, 0)
    rows = [{tuple(r) for r in d.shots.tolist() if r[0]} for d in (few, fewer)
            if d.shots is not None]
    assert rows[0] != rows[1]  # one user decides what is learned of others
    said = WHERE.get(where, lambda delta, d: RandomisedResponse().unfit(BPRMF(), d))
    assert said(1e-5, data) is None
    assert "8 shots" in str(said(1e-5, few))
    for open_to_all in (DpSgd(epsilon=math.inf), Federated(), RandomisedResponse(
            answer_epsilon=math.inf)):
        assert open_to_all.unfit(BPRMF(), few) is None


def without_user(data: Dataset, user: int) -> Dataset:
    train = data.train
    return data.replace(train=train[train.users != user])


def log_of(rows: list[tuple[str, str, float]], times: bool) -> Log:
    users, items, when = (list(column) for column in zip(*rows, strict=True))
    return Log(np.array(users), np.array(items), None, np.array(when) if times else None)


class Prepared(PreparedDataset):
    name = "prepared"

    def load(self) -> Dataset:
        raise NotImplementedError


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize(("params", "valid_rows"), [
    *(({"split": how}, 0) for how in SPLITS), ({"k_core": 4}, 0), ({}, 2)])
def test_what_lets_one_user_decide_about_others_is_refused(
        params: dict[str, Any], valid_rows: int, times: bool) -> None:
    """Each user in turn leaves the log; whoever else then has other train rows was decided about.
    Nobody is where nothing is refused, and somebody where something is."""
    random = np.random.default_rng(0)
    likely = 1 / np.arange(1, 26)
    rows = [(f"u{u:02}", f"i{i:02}", float(random.integers(1000))) for u in range(30)
            for i in random.choice(25, 7, replace=False, p=likely / likely.sum())]
    plugin = Prepared(**({"split": "ratio-hash"} if not times and "split" not in params else {})
                      | params)
    if not times and plugin.split in ("ratio-time", "leave-one-out", "leave-last-out", "time-cut"):
        pytest.skip("a split by time")

    def train(of: list[tuple[str, str, float]]) -> tuple[dict[str, set[str]], str | None]:
        log = log_of(of, times)
        if valid_rows:
            log = dataclasses.replace(log, parts=np.zeros(len(of), np.int8) + 2 * (
                np.arange(len(of)) == 0))
        made = plugin.prepare(log, valid_rows=valid_rows)
        found: dict[str, set[str]] = {}
        for user, item in zip(made.train.users, made.train.items, strict=True):
            found.setdefault(made.user_ids[user], set()).add(made.item_ids[item])
        return found, chosen_together(made)

    whole, reason = train(rows)
    hit = 0
    for gone in sorted({u for u, _, _ in rows} - {"u00"}):
        left, _ = train([r for r in rows if r[0] != gone])
        hit += sum(left.get(u, set()) != whole.get(u, set()) for u in {*whole, *left} - {gone})
    if plugin.split == "cold-items" and not hit:
        assert reason is not None  # the draw is over the items that anybody has
    else:
        assert (reason is not None) == (hit > 0), (hit, reason)
    if reason is not None:
        assert "changes which rows of others" in reason
        assert any(w in reason for w in ("ratio-hash", "set k_core to 0", "set valid_rows to 0"))


def test_where_nothing_is_promised_no_delta_is_asked_for(data: Dataset) -> None:
    for defense in (DpSgd(delta=0.3, epsilon=math.inf), DpSgd(delta=0.3, noise_multiplier=0.0),
                    Federated(delta=0.3)):
        assert defense.unfit(BPRMF(), data) is None
    assert DPALS(delta=0.3, noise_multiplier=0.0).unfit(data) is None


def test_the_bound_is_one_over_the_users_to_the_last_bit(data: Dataset) -> None:
    assert too_likely(1 / 50, data) is not None
    assert too_likely(math.nextafter(1 / 50, 0), data) is None

"""Cold items: the test asks for items that nobody has met, and only their texts tell of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.metrics.plan import make_plan
from bench.models.base import Recommender, Wrapped, build
from bench.registry import Registry
from bench.splits import TEST, TRAIN, VALID, cold_items, ratio_by_time

SHARED = Path(os.environ.get("BENCH_SHARED_DATA",
                             Path(__file__).parents[2] / "shared" / "data"))
REGISTRY = Registry()
GENRES = ("western desert cowboy", "space robot alien", "wedding romance kiss", "ghost haunted")
USERS, ITEMS, LENGTH = 80, 160, 16


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of users who take items of one genre, and texts that name the genre."""
    made = tmp_path_factory.mktemp("cold")
    rng = np.random.default_rng(5)
    rows = ["user\titem\ttime"]
    for user in range(USERS):
        own = np.flatnonzero(np.arange(ITEMS) % len(GENRES) == user % len(GENRES))
        rows += [f"u{user}\ti{item}\t{n}" for n, item in enumerate(
            rng.choice(own, LENGTH, replace=False))]
    (made / "rows.tsv").write_text("\n".join(rows) + "\n")
    texts = ["item\ttext"] + [f"i{n}\tfilm {rng.integers(1000)} {GENRES[n % len(GENRES)]}"
                              for n in range(ITEMS)]
    (made / "items.tsv").write_text("\n".join(texts) + "\n")
    return made


def read(folder: Path, **params: Any) -> Dataset:
    asked: dict[str, Any] = {"user": "user", "item": "item", "time": "time", "text": "text",
                             "split": "cold-items", "ratios": [0.7, 0.1, 0.2]} | params
    made: Dataset = plugin("datasets", "table", path=str(folder / "rows.tsv"), item_id="item",
                           item_file=str(folder / "items.tsv"), **asked).load()
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return read(folder)


def cold(data: Dataset) -> set[int]:
    return set(data.test.items.tolist())


# -- the split -----------------------------------------------------------------------------------

@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    rows = draw(st.lists(st.tuples(*(st.integers(0, top) for top in (4, 9, 5))), min_size=1,
                         max_size=40, unique_by=lambda row: row[:2]))
    users, items, times = np.array(rows, np.int64).T
    return Interactions(users, items, times=times.astype(float) if draw(st.booleans()) else None)


@given(interactions(), st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.0, 0.3), (0.1, 0.5, 0.4),
                                        (0.5, 0.5, 0.0)]), st.integers(0, 9))
def test_a_cold_item_is_in_test_alone_and_every_row_in_one_part(rows, ratios, seed):
    parts = cold_items(rows, ratios, seed)
    assert parts.shape == (len(rows),)
    assert set(parts.tolist()) <= {TRAIN, VALID, TEST}
    tested = set(rows.items[parts == TEST].tolist())
    assert not tested & set(rows.items[parts != TEST].tolist())
    n = len(set(rows.items.tolist()))
    share = max(int(ratios[2] * n + 1e-9), int(ratios[2] > 0))
    assert len(tested) == min(share, n - 1)
    warm = parts != TEST
    for user in set(rows.users[warm].tolist()):
        own = warm & (rows.users == user)
        held = int(ratios[1] / (ratios[0] + ratios[1]) * own.sum() + 1e-9)
        held = max(held, int(ratios[1] > 0))
        assert (parts[own] == VALID).sum() == min(held, own.sum() - 1)
        if rows.times is not None and held and own.sum() > held:
            assert (rows.times[own & (parts == VALID)].min()
                    >= rows.times[own & (parts == TRAIN)].max())


def test_the_other_rows_are_divided_as_ratio_time_would_divide_them_alone():
    rng = np.random.default_rng(0)
    rows = Interactions(rng.integers(0, 9, 300), rng.integers(0, 50, 300), times=rng.random(300))
    parts = cold_items(rows, (0.6, 0.2, 0.2), 1)
    warm = parts != TEST
    assert (parts[warm] == ratio_by_time(rows[warm], (0.75, 0.25, 0.0))).all()


def test_the_split_seed_alone_decides(folder: Path, data: Dataset) -> None:
    np.random.seed(7)
    torch.manual_seed(7)
    again, other = read(folder), read(folder, split_seed=1)
    for part in ("train", "valid", "test"):
        for column in ("users", "items", "times"):
            assert (getattr(getattr(again, part), column)
                    == getattr(getattr(data, part), column)).all()
    names = [{d.item_ids[i] for i in cold(d)} for d in (data, again, other)]
    assert names[0] == names[1] != names[2]
    # how much is held out for validation does not move the draw
    assert names[0] == {d.item_ids[i] for d in [read(folder, ratios=[0.5, 0.3, 0.2])]
                        for i in cold(d)}


def test_the_loaded_data_ask_for_cold_items_alone_and_mask_what_was_taken(data: Dataset) -> None:
    assert len(cold(data)) == data.notes["test items unseen in train"] == ITEMS // 5
    assert len(data.train) + len(data.valid) + len(data.test) == USERS * LENGTH
    known = {(int(u), int(i)) for part in (data.train, data.valid)
             for u, i in zip(part.users, part.items, strict=True)}
    assert not {i for _, i in known} & cold(data)
    plan = make_plan(data, "test")
    masked = set(zip(plan.users[plan.known_owner].tolist(), plan.known_item.tolist(), strict=True))
    assert masked == known
    asked = set(zip(plan.users[plan.pair_owner].tolist(), plan.pair_item.tolist(), strict=True))
    assert asked == set(zip(data.test.users.tolist(), data.test.items.tolist(), strict=True))
    assert plan.relevant.all()
    assert plan.repeats == 0


def test_users_who_took_cold_items_alone_lose_their_rows(tmp_path: Path) -> None:
    lines = [f"a\t{i}\t{i}" for i in range(10)] + [f"b{i}\t{i}\t0" for i in range(10)]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n")
    data: Dataset = plugin("datasets", "table", path=str(tmp_path / "rows.tsv"), time="3",
                           split="cold-items", ratios=[0.7, 0.1, 0.2]).load()
    assert data.notes["valid and test rows dropped, user not in train"] == 2
    assert data.n_users == 1 + 8
    assert {data.user_ids[u] for u in data.test.users} == {"a"}
    assert not cold(data) & set(data.train.items.tolist())


def test_no_share_for_test_is_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no user has a positive test item.*larger test share"):
        read(folder, ratios=[0.9, 0.1, 0.0])


# -- who can rank what nobody has met ------------------------------------------------------------

class ColdAlone(Wrapped):
    """The model's order of the cold items, all others after them."""

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        found = self.base.scores(users, split).clone()
        warm = torch.ones(self.data.n_items, dtype=torch.bool)
        warm[sorted(cold(self.data))] = False
        found[:, warm] = -1e9
        return found


def ndcg(data: Dataset, name: str, seeds: int = 1, **params: Any) -> tuple[float, float]:
    """NDCG@10 in the whole catalogue and among the cold items alone, mean over seeds."""
    found = []
    for seed in range(seeds):
        model = build(plugin("models", name, **params), data, Context(seed))
        model.fit(plugin("defenses", "none"), lambda event: None)
        found.append([evaluate(m, data, ["ndcg@10"]).values[0][2]
                      for m in (model, ColdAlone(model))])
    whole, alone = np.mean(found, axis=0)
    return float(whole), float(alone)


def test_texts_rank_cold_items_and_interactions_do_not(data: Dataset) -> None:
    chance, among = ndcg(data, "random", seeds=8)
    text, text_among = ndcg(data, "text-cosine", model="tiny-random", dtype="float32", whiten=8)
    pop, pop_among = ndcg(data, "pop")
    mf, mf_among = ndcg(data, "bprmf", seeds=4, dim=16, epochs=20, batch_size=256,
                        learning_rate=0.01)
    # every item of pop is tied among the cold: its expectation is chance, and random is near it
    assert among == pytest.approx(pop_among, rel=0.1)
    assert mf_among == pytest.approx(pop_among, rel=0.2)
    assert text_among > 1.5 * pop_among
    # in the whole catalogue, what was met comes first: no better than chance, and pop finds none
    assert pop == 0
    assert mf <= chance
    assert text > 2 * chance


# -- few-shot prompts that others published ------------------------------------------------------

ASKED = re.compile(r"User Preference: (.*)\nUser Unpreference: (.*)\n"
                   r'Whether the user will like the target movie "(.*)"\?')
TITLE = re.compile(r'"(.*?)"(?:, |$)')


class LikedShare(Recommender):
    """The same score for every item: how many of the films that a user rated are liked."""

    def fit(self, defense: Any, progress: Any) -> Any:
        raise NotImplementedError

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        liked = self.data.train.positives().users
        counts = torch.from_numpy(np.bincount(liked, minlength=self.data.n_users))
        return counts[users, None].float().expand(-1, self.data.n_items)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Any) -> None:
        return None


@pytest.mark.parametrize(("part", "yes", "twice", "share"), [
    ("test", 528, 4, 0.726), ("valid", 658, 1, 0.689)])
def test_tallrec_prompts_are_told_apart_by_counting_likes(
        tmp_path: Path, part: str, yes: int, twice: int, share: float) -> None:
    """TALLRec's film prompts (Bao et al., RecSys 2023), each as a user of its own: what AUC is
    had without a look at the film that is asked about."""
    file = SHARED / "tallrec-movie" / f"movie_{part}.json"
    if not file.exists():
        pytest.skip(f"TALLRec's prompts are not at {file}")
    known, asked = ["user\titem\tevent"], ["user\titem\tevent"]
    likes, answers = [], []
    for n, prompt in enumerate(json.loads(file.read_text())):
        found = ASKED.fullmatch(prompt["input"])
        assert found is not None, prompt["input"]
        liked, disliked = TITLE.findall(found[1]), TITLE.findall(found[2])
        known += [f"{n}\t{t}\tYes." for t in liked] + [f"{n}\t{t}\tNo." for t in disliked]
        asked.append(f"{n}\t{found[3]}\t{prompt['output']}")
        likes.append(len(set(liked)))
        answers.append(prompt["output"] == "Yes.")
    for name, lines in (("train", known), ("test", asked)):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    data: Dataset = plugin("datasets", "table", train=str(tmp_path / "train.tsv"),
                           test=str(tmp_path / "test.tsv"), user="user", item="item",
                           event="event", events=["Yes.=1", "No.=0"], separator="tab").load()
    assert (data.n_users, len(data.train), len(data.test)) == (
        1000, 10_000 - twice, 1000)
    # MovieLens has a few films under two ids each: some prompts name one twice
    assert data.notes["rows dropped as duplicate pairs"] == twice

    made = evaluate(LikedShare(data, Context(0)), data, ["point-auc"])
    assert made.facts["point_pairs"] == 1000
    assert made.facts["point_positives"] == yes
    assert made.facts["test_rows_known"] == 0  # no prompt tells its own answer
    score, label = np.array(likes), np.array(answers)
    apart = np.sign(score[label][:, None] - score[~label][None, :])
    assert made.values[0][2] == pytest.approx((1 + apart.mean()) / 2, abs=1e-12)
    assert made.values[0][2] == pytest.approx(share, abs=0.001)
    chance = evaluate(build(plugin("models", "random"), data, Context(0)), data, ["point-auc"])
    assert chance.values[0][2] == pytest.approx(0.5, abs=0.06)  # three standard errors

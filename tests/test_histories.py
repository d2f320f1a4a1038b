"""Histories under attack: what models read, slopes by place, budgets, attacks, the copy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._cells import load
from bench._contracts_histories import levenshtein, reads_other_histories
from bench._contracts_lab import Lab
from bench.api import Context, Dataset
from bench.attacks.append_items import AppendItems
from bench.attacks.model_extraction import ModelExtraction
from bench.attacks.pollution import Pollution
from bench.attacks.random_profiles import RandomProfiles
from bench.attacks.random_substitution import RandomSubstitution
from bench.attacks.replace_last import ReplaceLast
from bench.attacks.sequence_poisoning import SequencePoisoning
from bench.attacks.substitution import Substitution
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.defenses.subsample_ensemble import SubsampleEnsemble
from bench.edit_distance import distance
from bench.errors import CannotActError, InputError, PluginError
from bench.evaluate import evaluate
from bench.extraction import agreement, ask, outside, ranking_loss
from bench.models import recbole
from bench.models.base import Recommender, TorchRecommender, Wrapped, build
from bench.positions import Reader, padded, written_back
from bench.run import run
from bench.shown_lists import Shown, asks_inside, best_items, new_items, unit_vectors
from bench.stages import Prepared, under_attack, without_test
from bench.victim import Victim

SMALL: dict[str, Any] = {"max_length": 8, "patience": 0, "batch_size": 32, "learning_rate": 0.01}
SIZES: dict[str, dict[str, Any]] = {"SASRec": {"hidden_size": 16, "inner_size": 32},
                                    "GRU4Rec": {"embedding_size": 16, "hidden_size": 32}}


def plugin(name: str = "SASRec", **changes: Any) -> Any:
    return recbole.member(name)(**{**SMALL, **SIZES.get(name, {}), "epochs": 25, **changes})


def fitted(data: Dataset, name: str = "SASRec", **changes: Any) -> Any:
    made = build(plugin(name, **changes), data, Context(0))
    made.fit(NoDefense(), lambda event: None)
    return made


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks().load()


@pytest.fixture(scope="module")
def model(data: Dataset) -> Any:
    return fitted(data)


def scores(model: Recommender) -> torch.Tensor:
    with torch.no_grad(), model.evaluating():
        return model.scores(torch.arange(model.data.n_users)).clone()


# -- what models read --------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "BERT4Rec", "HGN", "FPMC", "EASE",
                                  "ItemKNN", "MultiVAE"])
def test_a_model_reading_other_histories_scores_as_on_data_with_them(name: str) -> None:
    reads_other_histories(Lab("models", recbole.member(name)))


def test_item_knn_reads_a_row_times_its_weights(data: Dataset) -> None:
    from bench.foldin import item_weights

    model = fitted_closed(data, "ItemKNN")
    put = model.histories()
    put[3] = np.array([1, 7])
    weights = item_weights(model).toarray()
    with model.reading(put):
        found = scores(model)
    assert np.allclose(found[3].numpy(), weights[1] + weights[7], atol=1e-6)
    assert torch.equal(scores(model)[4], found[4])


def fitted_closed(data: Dataset, name: str) -> Any:
    made = build(recbole.member(name)(), data, Context(0))
    made.fit(NoDefense(), lambda event: None)
    return made


def test_histories_are_positives_before_the_test_split_in_order(data: Dataset, model: Any) -> None:
    known = data.train.plus(data.valid)
    for user in (0, 17):
        own = known[known.users == user]
        assert model.histories()[user].tolist() == own.items[np.argsort(own.times)].tolist()
    ease = fitted_closed(data, "EASE")
    assert sorted(ease.histories()[5]) == sorted(data.train.items[data.train.users == 5])


def test_models_that_read_nothing_say_so(data: Dataset) -> None:
    made = build(recbole.member("BPR")(epochs=1), data, Context(0))
    with pytest.raises(CannotActError, match="BPR reads no history"), made.reading(
            made.histories()):
        pass
    assert "reads no history" in str(AppendItems().unfit(recbole.member("BPR")(), data))
    assert AppendItems().unfit(recbole.member("EASE")(), data) is None
    assert "embeddings" in str(Substitution().unfit(recbole.member("EASE")(), data))
    many = Substitution(goal="push", targets=40)
    assert "40 targets" in str(many.unfit(plugin(), data))


class Doubled(Wrapped):
    """Twice the scores; kept for ever where frozen."""

    kept: Any = None
    frozen = False

    def scores(self, users: torch.Tensor, split: str = "test") -> torch.Tensor:
        if self.kept is None:
            self.kept = 2 * self.base.scores(torch.arange(self.data.n_users), split)
        return self.kept[users]

    def forget(self) -> None:
        super().forget()
        if not self.frozen:
            self.kept = None


def test_edits_reach_the_model_inside_a_wrapper_or_the_attack_cannot_act(data: Dataset,
                                                                         model: Any) -> None:
    wrapped, prepared = Doubled(model), Prepared(data, data, data, None)
    clean = scores(wrapped)
    with under_attack(AppendItems(edits=2), wrapped, prepared, Context(0)):
        inside = scores(wrapped)
        assert torch.equal(inside, 2 * scores(model))
        assert not torch.equal(inside, clean)
    assert torch.equal(scores(wrapped), clean)
    assert asks_inside(wrapped)
    wrapped.frozen = True
    scores(wrapped)
    with pytest.raises(CannotActError, match="was made before"), under_attack(
            AppendItems(), wrapped, prepared, Context(0)):
        pass
    assert torch.equal(scores(model), clean / 2)


def test_votes_counted_before_are_no_target(data: Dataset) -> None:
    base = fitted_closed(data, "EASE")
    served = SubsampleEnsemble(members=3, users=20).harden(base, without_test(data), Context(0))
    with pytest.raises(CannotActError, match="was made before"), under_attack(
            AppendItems(), served, Prepared(data, data, data, None), Context(0)):
        pass


# -- slopes by place ---------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "BERT4Rec"])
@pytest.mark.parametrize("aim", [[5], []], ids=["push", "untargeted"])
def test_slopes_by_place_are_finite_differences_of_what_is_read_there(
        data: Dataset, name: str, aim: list[int]) -> None:
    model = fitted(data, name, epochs=3)
    histories = [h[:k] for h, k in zip(model.histories()[:3], (7, 3, 1), strict=True)]
    reader = Reader(model, np.array(aim, np.int64), histories, Context(0))
    items, lengths = padded(histories, reader.width, "cpu")
    users = torch.arange(3)
    with model.evaluating():
        slope = reader.slopes(users, items, lengths)
        assert slope.shape == (3, 8, reader.table.rows().shape[1])
        assert not bool(slope[items < 0].any())
        rows, rng = reader.table.rows()[items.clamp_min(0)], np.random.default_rng(0)
        for row, place in ((0, 6), (0, 3), (1, 2), (1, 0)):
            way = torch.zeros_like(rows)
            way[row, place] = torch.as_tensor(rng.normal(size=rows.shape[2])).float()
            found = []
            for step in (1e-3, -1e-3):
                with torch.no_grad(), model.looking_up(items, rows + step * way):
                    value = reader.gain(users, items, lengths)
                found.append(value)
            difference = (found[0] - found[1]) / 2e-3
            assert float(difference[row]) == pytest.approx(
                float((slope * way).sum()), rel=2e-2, abs=1e-3)
            others = [r for r in range(3) if r != row]
            assert float(difference[others].abs().max()) < 1e-3


def test_slopes_by_place_are_not_those_of_the_tied_table(model: Any) -> None:
    """The same item scores and is read: by its row both count, by its place only the reading."""
    history = model.histories()[0]
    item, reader = int(history[-1]), Reader(model, history[-1:], [history], Context(0))
    items, lengths = padded([history], reader.width, "cpu")
    with model.evaluating():
        place = reader.slopes(torch.arange(1), items, lengths)[0][(items == item)[0]].sum(dim=0)
        gain = model.history_scores(torch.arange(1), items, lengths).log_softmax(dim=1)[0, item]
        (tied,) = torch.autograd.grad(gain, reader.table.weight)
    tied = tied[reader.table.start + item]
    assert float((place - tied).norm()) > 0.1 * float(tied.norm())


def test_looking_up_the_same_vectors_changes_nothing(model: Any) -> None:
    items, lengths = padded(model.histories(), 8, "cpu")
    users = torch.arange(len(items))
    with torch.no_grad(), model.evaluating():
        plain = model.history_scores(users, items, lengths)
        with model.looking_up(items, model.history_table().rows()[items.clamp_min(0)]):
            assert torch.equal(plain, model.history_scores(users, items, lengths))
    assert torch.allclose(plain, scores(model))


@pytest.mark.parametrize("name", ["SRGNN", "FPMC", "DIN"])
def test_models_without_vectors_of_places_are_skipped_with_a_reason(data: Dataset,
                                                                    name: str) -> None:
    model = fitted(data, name, epochs=1)
    attack = Substitution()
    assert attack.unfit(model.hyper, data) is None
    with pytest.raises(CannotActError, match=r"one by one|place by place|no slopes"), \
            under_attack(attack, model, Prepared(data, data, data, None), Context(0)):
        pass


# -- budgets -----------------------------------------------------------------------------------

sequences = st.lists(st.integers(0, 3), max_size=5)


@settings(deadline=None, max_examples=60)
@given(sequences, sequences)
def test_distances_are_levenshtein(a: list[int], b: list[int]) -> None:
    true = levenshtein(np.array(a), np.array(b))
    for most in (0, 2, 6):
        found = distance(a, b, most, ("insert", "delete", "substitute"))
        assert found == (true if true <= most else None)


def within(a: tuple[int, ...], most: int, kinds: tuple[str, ...]) -> dict[Any, int]:
    """Every sequence that `most` edits of these kinds reach, by trying them all."""
    found = {a: 0}
    for n in range(1, most + 1):
        for s in [s for s, d in found.items() if d == n - 1]:
            made = []
            if "insert" in kinds:
                made += [(*s[:k], v, *s[k:]) for k in range(len(s) + 1) for v in range(3)]
            if "delete" in kinds:
                made += [(*s[:k], *s[k + 1:]) for k in range(len(s))]
            if "append" in kinds:
                made += [(*s, v) for v in range(3)]
            for one in made:
                found.setdefault(one, n)
    return found


@pytest.mark.parametrize("kinds", [("insert",), ("delete",), ("insert", "delete"), ("append",)])
def test_distances_by_some_kinds_of_edits_are_what_trying_all_finds(kinds: tuple[str, ...]
                                                                    ) -> None:
    for a in itertools.product(range(3), repeat=3):
        reached = within(a, 2, kinds)
        for size in range(6):
            for b in itertools.product(range(3), repeat=size):
                assert distance(a, b, 2, kinds) == reached.get(b)


def test_replacements_below_the_bound_are_no_replacements() -> None:
    even = lambda a, b: (a - b) % 2 == 0  # noqa: E731
    assert distance([1, 2, 3], [1, 4, 3], 3, ("substitute",), even) == 1
    assert distance([1, 2, 3], [1, 5, 3], 3, ("substitute",), even) is None
    assert distance([1, 2, 3], [1, 5, 3], 3, ("insert", "delete", "substitute"), even) == 2
    assert distance([1, 2, 3], [3, 2], 1, ("substitute",)) is None


class Given(Substitution):
    """Puts what the test says into the history of user 0."""

    name = "given"
    similarity: float = -1.0
    put: tuple[int, ...] = ()

    def edit(self, model: Any, histories: Any, targets: Any, data: Any, ctx: Any) -> Any:
        histories[0] = np.array(self.put)
        return histories


def test_what_oversteps_is_refused(data: Dataset, model: Any) -> None:
    own = model.histories()[0].tolist()
    unlike = int((unit_vectors(model) @ unit_vectors(model)[own[-1]]).argmin())
    for put, message, more in (
            ((*own[:-2], 9999, own[-1]), "not in the catalogue", {}),
            ((), "one item at least", {}),
            ((*own[1:], own[0]), "not within 1 edits", {}),
            ((*own, 3), "not within 1 edits", {}),
            ((*own[:-1], unlike), "cosine 0.5", {"similarity": 0.5})):
        attack = Given(put=put, **more)
        with pytest.raises(PluginError, match=message):
            attack.edited(model, model, data, None, Context(0))
    similar = int((unit_vectors(model) @ unit_vectors(model)[own[-1]]).argsort()[-2])
    put, facts = Given(put=(*own[:-1], similar), similarity=-0.5).edited(
        model, model, data, None, Context(0))
    assert put[0].tolist() == [*own[:-1], similar]
    assert facts["edits"] == {"mean": 1 / 60, "users": 1, "of": 60}
    aim = np.array([own[-2], similar])
    with pytest.raises(PluginError, match="side by side"):
        Given(put=(*own[:-1], similar), goal="push").edited(model, model, data, aim, Context(0))


def test_parameters_that_say_nothing_are_refused() -> None:
    for wrong in ({"similarity": 0.5}, {"what": "target"}):
        with pytest.raises(InputError):
            AppendItems(**wrong)
        with pytest.raises(InputError):
            ReplaceLast(**wrong)
    with pytest.raises(InputError):
        Pollution(goal="untargeted")
    assert Substitution(adaptive=False).unfit_defended(NoDefense(), plugin(), Blocks().load())
    assert not AppendItems().is_adaptive
    assert Pollution().threat_model().knowledge == "black"


def test_injected_users_keep_their_histories(data: Dataset) -> None:
    poisoned = RandomProfiles(budget=0.1, targets=2).poison(data, Context(0))
    model = fitted(poisoned, epochs=1)
    before = model.histories()
    after, _ = AppendItems(edits=3).edited(model, model, data, None, Context(0))
    assert len(after) == poisoned.n_users
    assert all(np.array_equal(a, b) for a, b in zip(before[60:], after[60:], strict=True))
    assert all(len(a) + 3 == len(b) for a, b in zip(before[:60], after[:60], strict=True))


def test_who_has_no_history_is_left_alone_or_gets_one(data: Dataset) -> None:
    gone = np.zeros(60, bool)
    gone[4] = True
    bare = data.without_users(gone)
    model = fitted(bare.replace(valid=bare.valid[bare.valid.users != 4]), epochs=1)
    for attack, size in ((Substitution(similarity=-1.0), 0), (AppendItems(edits=2), 2),
                         (Pollution(knowledge="white", stratum="tail"), 2)):
        aim = attack.aims(data, Context(0))
        put, _ = attack.edited(model, model, data, aim, Context(0))
        assert len(put[4]) == size


# -- evaluation --------------------------------------------------------------------------------

def test_evaluation_masks_and_seeks_what_users_really_took(data: Dataset, model: Any) -> None:
    """A target in the history is still a recommendation that counts; replaced items stay masked."""
    prepared = Prepared(data, data, data, None)
    attack = ReplaceLast(edits=4, goal="push", what="target", stratum="tail")
    with under_attack(attack, model, prepared, Context(0)) as struck:
        assert struck.data is data
        targets = struck.targets
        under = evaluate(struck.model, struck.data, ["hr@10", "target-hr@10"], targets=targets)
    clean = evaluate(model, data, ["hr@10", "target-hr@10"], targets=targets)
    assert (under.items["eligible"] == clean.items["eligible"]).all()
    assert (under.users["user"] == clean.users["user"]).all()
    assert under.facts["users_evaluated"] == clean.facts["users_evaluated"]
    took = data.known("test").plus(data.test)
    for item in targets:
        assert under.items["eligible"][item] == 60 - (took.items == item).sum()


# -- attacks -----------------------------------------------------------------------------------

def gains(model: Any, attack: Any, data: Dataset) -> float:
    """Mean of what the attack raises, under the attack."""
    aim = attack.aims(data, Context(0))
    own = model.histories()
    reader = Reader(model, np.zeros(0, np.int64) if aim is None else aim, own, Context(0))
    put, _ = attack.edited(model, model, data, aim, Context(0))
    with model.evaluating():
        return float(reader.gain(torch.arange(len(own)), *padded(put, 8, "cpu")).mean())


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("goal", ["untargeted", "push"])
def test_substitution_beats_chance_and_gains_by_edits(data: Dataset, model: Any, name: str,
                                                      goal: str) -> None:
    victim = model if name == "SASRec" else fitted(data, name)
    for bound in (-1.0, 0.2):
        how: dict[str, Any] = {"goal": goal, "similarity": bound,
                               **({"stratum": "tail"} if goal == "push" else {})}
        mine = [gains(victim, Substitution(edits=k, **how), data) for k in (0, 1, 3)]
        chance = [gains(victim, RandomSubstitution(edits=k, **how), data) for k in (1, 3)]
        assert mine[0] < mine[1] < mine[2]
        assert mine[1] > chance[0]
        assert mine[2] > chance[1]


def test_one_edit_is_the_best_of_the_tries_by_hand(data: Dataset, model: Any) -> None:
    """Place by slope norm, items by cosine within the bound, the best by the model's scores."""
    attack = Substitution(edits=1, similarity=0.0, tries=4, goal="push", stratum="tail")
    target = int(attack.aims(data, Context(0))[0])
    put, _ = attack.edited(model, model, data, np.array([target]), Context(0))
    rows = model.history_table().rows()
    unit = unit_vectors(model).float()
    for user in (0, 7, 33):
        own = model.histories()[user]
        window = own[-8:]
        reader = Reader(model, np.array([target]), [own], Context(0))
        with model.evaluating():
            slope = reader.slopes(torch.arange(1), *padded([own], 8, "cpu"))[0]
        at = int(slope[:len(window)].norm(dim=1).argmax())
        moved = rows[window[at]] + slope[at].sign()
        order = (moved / moved.norm()) @ unit.T
        banned = (unit @ unit[window[at]]) < 0
        banned[window[at]] = True
        if target in window[max(at - 1, 0):at + 2]:
            banned[target] = True
        tried = order.masked_fill(banned, -torch.inf).topk(4).indices.tolist()
        best, reached = own.tolist(), None
        for item in [int(window[at]), *tried]:
            changed = own.copy()
            changed[len(own) - len(window) + at] = item
            probability = model_probability(model, user, changed, target)
            if reached is None or probability > reached:
                best, reached = changed.tolist(), probability
        assert put[user].tolist() == best


def model_probability(model: Any, user: int, history: np.ndarray, item: int) -> float:
    items, lengths = padded([history], 8, "cpu")
    with torch.no_grad(), model.evaluating():
        found = model.history_scores(torch.tensor([user]), items, lengths)
    return float(found.double().log_softmax(dim=1)[0, item])


def test_untargeted_edits_lower_accuracy_more_than_random_ones(data: Dataset, model: Any) -> None:
    prepared, found = Prepared(data, data, data, None), []
    for attack in (RandomSubstitution(edits=2, similarity=-1.0),
                   Substitution(edits=2, similarity=-1.0)):
        with under_attack(attack, model, prepared, Context(0)) as struck:
            found.append(evaluate(struck.model, struck.data, ["ndcg@10"]).values[0][2])
    assert found[1] < found[0]
    assert not model.module.training


def test_pollution_keeps_targets_apart_and_beats_copies_of_them(data: Dataset, model: Any) -> None:
    attack = Pollution(edits=4, knowledge="white", stratum="tail")
    aim = attack.aims(data, Context(0))
    put, _ = attack.edited(model, model, data, aim, Context(0))
    for was, now in zip(model.histories(), put, strict=True):
        assert now[:len(was)].tolist() == was.tolist()
        assert len(now) == len(was) + 4
        there = np.isin(now[len(was) - 1:], aim)
        assert not (there[1:] & there[:-1]).any()
    copies = AppendItems(edits=4, goal="push", what="target", stratum="tail")
    random = AppendItems(edits=4, goal="push", stratum="tail")
    assert gains(model, attack, data) > max(gains(model, copies, data), gains(model, random, data))


def test_pollution_minds_an_item_that_the_surrogate_does_not_read(
        data: Dataset, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it appends as many items as are read, the last one of the user's own is out of sight;
    it may be a target all the same. Nothing gains here, so that what may stay does."""
    monkeypatch.setattr(Reader, "gain", lambda self, users, *_: torch.zeros(len(users)).double())
    for knowledge in ("white", "black"):
        attack = Pollution(edits=50, knowledge=knowledge, sequences=5, length=3, epochs=1, k=4,
                           stratum="tail")
        aim = attack.aims(data, Context(0))
        ends = [np.append(h[h != aim[0]], aim[0]) for h in model.histories()]
        told = attack._told(model, Context(0))
        for was, now in zip(ends, attack.edit(told, ends, aim, data, Context(0)), strict=True):
            there = np.isin(now[len(was) - 1:], aim)
            assert len(now) > len(was)
            assert not (there[1:] & there[:-1]).any()


def test_a_static_attack_is_made_on_the_undefended_model(data: Dataset, model: Any) -> None:
    defended = fitted(data, epochs=4)
    ctx = Context(0, victim=Victim(plugin(), NoDefense(), Context(0), lambda: model))
    attack = Substitution(similarity=-1.0, adaptive=False)
    expected, _ = attack.edited(defended, model, data, None, Context(0))
    with under_attack(attack, defended, Prepared(data, data, data, None), ctx):
        inside = scores(defended)
    with defended.reading(expected):
        assert torch.equal(inside, scores(defended))
    adaptive, _ = attack.edited(defended, defended, data, None, Context(0))
    assert any(not np.array_equal(a, b) for a, b in zip(adaptive, expected, strict=True))


def test_controls_draw_new_items_and_more_begin_with_fewer(data: Dataset) -> None:
    history, barred = np.array([3, 4]), np.array([9])
    few, more = (new_items(data, history, barred, k, Context(0), 5) for k in (2, 6))
    assert more[:2].tolist() == few.tolist()
    assert not np.isin(more, [3, 4, 9]).any()
    assert len(np.unique(more)) == 6


def test_queries_are_histories_asked_for(data: Dataset, model: Any) -> None:
    prepared = Prepared(data, data, data, None)
    black = Pollution(sequences=9, length=5, epochs=1, k=10)
    with under_attack(black, model, prepared, Context(0)) as struck:
        assert struck.facts["queries"] == 45
    with under_attack(Substitution(tries=3), model, prepared, Context(0, notes={})) as struck:
        assert struck.facts["queries"] == 60 * (1 + 1 + 1 + 3)  # recommended, gain, slope, tries
    with under_attack(AppendItems(), model, prepared, Context(0)) as struck:
        assert struck.facts["queries"] == 0


def test_padded_and_written_back_are_inverse() -> None:
    histories = [np.arange(12), np.array([5]), np.zeros(0, np.int64)]
    items, lengths = padded(histories, 4, "cpu")
    assert items.tolist() == [[8, 9, 10, 11], [5, -1, -1, -1], [-1, -1, -1, -1]]
    assert [h.tolist() for h in written_back(histories, items, lengths)] == \
        [h.tolist() for h in histories]


# -- the copy ----------------------------------------------------------------------------------

def test_lists_shown_leave_out_what_a_history_holds(data: Dataset, model: Any) -> None:
    asked = [np.array([k % 48, (3 * k + 1) % 48]) for k in range(130)]  # more than accounts
    found = Shown(model).lists(asked, 5)
    for history, items in zip(asked, found, strict=True):
        batch = padded([history], 8, "cpu")
        with torch.no_grad(), model.evaluating():
            own = model.history_scores(torch.zeros(1, dtype=torch.long), *batch)[0].clone()
        own[history] = -torch.inf
        assert items.tolist() == own.topk(5).indices.tolist()


def test_best_items_break_ties_by_index() -> None:
    assert best_items(np.array([[1.0, 2.0, 2.0, 0.0, 2.0]]), 2).tolist() == [[1, 2]]


def test_histories_grow_by_items_that_were_shown(model: Any) -> None:
    items, lists = ask(Shown(model), 6, 5, 7, Context(0))
    for s in range(6):
        assert lists[s].tolist() == Shown(model).lists(
            [items[s, :t + 1] for t in range(5)], 7).tolist()
        assert all(items[s, t + 1] in lists[s, t] for t in range(4))


def test_ranking_loss_by_hand() -> None:
    scores_ = torch.tensor([[3.0, 1.0, 2.0, 0.0, 2.8]])
    lists, negatives = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 4, 3]])
    order = (max(0, 1 - 3 + 0.5) + max(0, 2 - 1 + 0.5)) / 2
    above = (max(0, 0 - 3 + 0.5) + max(0, 2.8 - 1 + 0.5) + max(0, 0 - 2 + 0.5)) / 3
    assert float(ranking_loss(scores_, lists, negatives)) == pytest.approx(order + above)


def test_negatives_are_every_item_that_is_not_on_the_list() -> None:
    lists = torch.tensor([[4, 0, 7], [1, 2, 3]])
    number = torch.arange(6).expand(2, -1)
    found = outside(lists, 9, number)
    assert found.tolist() == [[1, 2, 3, 5, 6, 8], [0, 4, 5, 6, 7, 8]]


def test_a_copy_agrees_more_than_chance_and_more_by_queries(data: Dataset, model: Any) -> None:
    prepared, found = Prepared(data, data, data, None), []
    for count in (4, 250):
        attack = ModelExtraction(sequences=count, length=6, k=12, epochs=12)
        with under_attack(attack, model, prepared, Context(0)) as struck:
            assert struck.facts["queries"] == 6 * count
            found.append(struck.privacy)
    assert found[0]["extraction-agreement@10"] < found[1]["extraction-agreement@10"] - 0.1
    assert found[1]["extraction-agreement@10"] > found[1]["extraction-chance@10"] + 0.2
    assert found[0]["extraction-chance@10"] == pytest.approx(10 / 38)
    assert agreement(np.array([[1, 2]]), np.array([[2, 3]])) == 0.5


# -- poisoned sequences ------------------------------------------------------------------------

def test_targets_end_stretches_of_the_least_aligned_items(data: Dataset) -> None:
    from bench.defense import Defense
    from bench.registry import Registry

    attack = SequencePoisoning(epochs=2, targets=2, budget=0.05, length=7, pool=1)
    targets = attack.pick(data, Context(0))
    made = attack.profiles(without_test(data), targets, np.array([7, 6, 7]), Context(0))
    surrogate: Any = build(Registry().make("models", {"name": "SASRec", "params": {  # type: ignore
        "epochs": 2, "patience": 0}}), without_test(data), Context(0).apart("surrogate"))
    surrogate.fit(Defense(), lambda event: None)
    for fake, (profile, ends) in enumerate(zip(made, ([3, 6], [2, 5], [3, 6]), strict=True)):
        assert profile.ordered
        assert [k for k, i in enumerate(profile.items) if i in targets] == ends
        assert len(np.unique(profile.items)) == len(profile.items)
        rng = Context(0).stream("sequence-poisoning", fake)
        rng.permutation(targets)
        first = int(rng.integers(48))  # the random item whose place is filled first
        aim = profile.items[ends[0]:ends[0] + 1]
        reader = Reader(surrogate, aim, [np.array([first])], Context(0))
        with surrogate.evaluating():
            slope = reader.slopes(torch.arange(1), *padded([np.array([first])], 50, "cpu"))
            order = reader.alignment(torch.tensor([first]), slope[:, 0])[0]
        order[torch.as_tensor(targets)] = torch.inf
        assert profile.items[0] == int(order.argmin())


# -- from a grid -------------------------------------------------------------------------------

GRID = """
name: histories
seeds: [0]
datasets: [{blocks: {users: 24, items: 30}}]
models: [{SASRec: {epochs: 3, max_length: 6, hidden_size: 8, inner_size: 8}}, EASE, pop]
attacks: [{substitution: {edits: 2, similarity: -1, adaptive: [true, false]}},
          {append-items: {goal: push, what: target, edits: 2}},
          {pollution: {sequences: 5, length: 4, epochs: 1, k: 8}},
          {model-extraction: {sequences: 5, length: 4, epochs: 1, k: 8}}]
defenses: [{neighbourhood-sampling: {share: 0.5}}]
metrics: [ndcg@10, target-hr@10]
"""


def test_they_run_from_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    assert run(grid, results=tmp_path / "results") == 0
    by = {(c.model.name, c.defense.name, c.attack.label): c
          for c in load(tmp_path / "results" / "histories").cells}
    states = {key: cell.status for key, cell in by.items()}
    for (model, defense, attack), state in states.items():
        if model == "SASRec":
            expected = "skipped" if defense == "none" and "adaptive=False" in attack else "ok"
        elif defense != "none":
            expected = "skipped"
        elif model == "EASE":
            expected = "skipped" if attack.startswith(("sub", "model")) else "ok"
        else:
            expected = "ok" if attack == "none" else "skipped"
        assert state == expected, (model, defense, attack, by[model, defense, attack].reason)
    cell = next(c for (m, d, a), c in by.items() if m == "SASRec" and a.startswith("model-ex"))
    assert 0 <= cell.privacy["extraction-agreement@10"] <= 1
    assert cell.cost["queries"] == 20


def test_the_copy_begins_with_the_made_up_histories_as_its_users() -> None:
    from bench.extraction import _untrained

    copy = _untrained("GRU4Rec", np.array([[4, 2, 9], [1, 1, 3]]), 12, Context(0))
    assert [h.tolist() for h in copy.histories()] == [[4, 2, 9], [1, 1, 3]]
    assert isinstance(copy, TorchRecommender)
    assert copy.data.n_items == 12

"""Malicious clients: their budget, what they know, their formulae, and the published figures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import _federation as fed
from bench import dp
from bench._federation import Layout, Scorer
from bench._rounds import Rounds
from bench.api import Context, Dataset
from bench.attacks.a_hum import AHardUsers
from bench.attacks.a_ra import ARandom
from bench.attacks.fed_rec_attack import FedRecAttack, _Centre
from bench.attacks.random_clients import RandomClients
from bench.data import Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.federated import Federated
from bench.defenses.none import NoDefense
from bench.errors import PluginError
from bench.federated import Client, ClientAttack, Sent
from bench.made_up_users import choice_loss
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.rating_mf import RatingMF
from bench.models.recbole import member
from bench.training import Loop

TARGETS = np.array([4, 9])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def deep(**params: object) -> object:
    return member("NeuMF")(mf_embedding_size=4, mlp_embedding_size=4, mlp_hidden_size=[6],
                           dropout_prob=0.0, **params)


def engine(attack: ClientAttack | None, data: Dataset, plugin: object = None,
           **params: object) -> Rounds:
    """Rounds of a model that has these clients; nothing has been trained."""
    plugin = plugin or BPRMF(dim=6, init_std=0.5, learning_rate=0.05, bias=True)
    ctx = Context(0)
    changed = data if attack is None else attack.before_training(data, ctx)
    model = build(plugin, changed, ctx)  # type: ignore[arg-type]
    assert isinstance(model, TorchRecommender)
    model.intruder = attack
    model.module.eval()
    defense = Federated(**{"clients": 12, **params})
    return Rounds(defense, Loop(model, defense))


def sent(attack: ClientAttack, data: Dataset, plugin: object = None, number: int = 1) -> Sent:
    made = engine(attack, data, plugin)
    made.number = number
    return made.sent()


# -- scores for a vector of one's own ----------------------------------------------------------

@pytest.mark.parametrize("plugin", [BPRMF(dim=6, init_std=0.5, bias=True), FCF(dim=6), deep(),
                                    member("BPR")()], ids=lambda p: p.name)
def test_a_client_scores_its_vector_as_the_model_scores_users(data, plugin):
    model = build(plugin, data, Context(0))
    where = Layout(model, dp.UserRows(model, 1))
    scorer = Scorer(model, where)
    shared = {k: model.module.get_parameter(k).detach() for k in where.shared}
    if isinstance(plugin, FCF):
        vectors = model.solve(model.taken[:5])
    else:
        rows = [model.module.get_parameter(k)[start:start + 5] for k, (start, _)
                in where.own.items()]
        vectors = torch.cat(rows, dim=1)
    assert vectors.shape == (5, scorer.width)
    with torch.no_grad(), model.evaluating():
        expected = model.scores(torch.arange(5))
        every = scorer(shared, vectors.repeat_interleave(32, dim=0), torch.arange(32).repeat(5))
    found = every.reshape(5, 32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert scorer.probability == (plugin.name == "NeuMF")


def test_no_users_row_is_read(data):
    """Other users' vectors, changed, change no score."""
    made = engine(ARandom(), data, deep())
    one = made.sent()
    vectors = torch.randn(3, one.scorer.width)
    before = one.scorer(one.shared, vectors, torch.tensor([1, 2, 3]))
    with torch.no_grad():
        for key in made.where.own:
            made.model.module.get_parameter(key).add_(1.0)
    assert torch.equal(before, one.scorer(one.shared, vectors, torch.tensor([1, 2, 3])))


# -- A-ra and A-hum ----------------------------------------------------------------------------

def score(parts: dict[str, Tensor], p: Tensor, q: Tensor) -> Tensor:
    """NeuMF by hand for vectors ordered as its tables are: gmf and mlp."""
    mf, mlp = p
    q_mf, q_mlp = q
    hidden = torch.cat([mlp, q_mlp])
    hidden = F.relu(parts["mlp_layers.mlp_layers.1.weight"] @ hidden
                    + parts["mlp_layers.mlp_layers.1.bias"])
    both = torch.cat([mf * q_mf, hidden])
    return parts["predict_layer.weight"] @ both + parts["predict_layer.bias"]


def by_hand(made: Sent, vectors: Tensor, order: list[str], label: float,
            shared: dict[str, Tensor]) -> Tensor:
    """mean_s mean_t BCE(score(p_s, t), label)."""
    losses = []
    for v in vectors:
        halves = dict(zip(order, v.split(4), strict=True))
        p = (halves["user_mf_embedding.weight"], halves["user_mlp_embedding.weight"])
        for t in TARGETS:
            q = (shared["item_mf_embedding.weight"][t + 1],
                 shared["item_mlp_embedding.weight"][t + 1])
            s = score(shared, p, q)
            losses.append(-F.logsigmoid(s) if label else -F.logsigmoid(-s))
    return torch.stack(losses).mean()


def test_a_ra_uploads_the_gradient_of_liking_the_targets(data):
    attack = ARandom(samples=3, std=0.5, targets=2)
    made = engine(attack, data, deep())
    got = made.sent()
    upload = attack.bounded_upload(got, Client(40), TARGETS, Context(7))
    drawn = torch.randn(3, 8, generator=Context(7).torch_stream("a-ra", 40)) * 0.5
    shared = {k: w.clone().requires_grad_() for k, w in got.shared.items()}
    loss = by_hand(got, drawn, list(made.where.own), 1.0, shared)
    found = torch.autograd.grad(loss, list(shared.values()))
    for key, expected in zip(shared, found, strict=True):
        assert bool(expected.any()), key
        assert torch.allclose(upload[key], expected, atol=1e-6), key
    touched = upload["item_mlp_embedding.weight"].any(dim=1).nonzero()[:, 0] - 1
    assert touched.tolist() == TARGETS.tolist()


def test_a_hum_mines_users_who_dislike_the_targets(data):
    attack = AHardUsers(samples=4, std=0.5, targets=2, steps=30, rate=0.3)
    made = engine(attack, data, deep())
    got, items = made.sent(), torch.tensor(TARGETS)
    drawn = 0.5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    hard = attack.vectors(got, drawn, items)
    before, after = (choice_loss(got.scorer, got.shared, v, items, 0.0) for v in (drawn, hard))
    assert (after < before).all()  # each dislikes them more
    one = AHardUsers(steps=1, rate=0.3).vectors(got, drawn, items)
    leaf = drawn[2].clone().requires_grad_()
    slope = torch.autograd.grad(by_hand(got, leaf[None], list(made.where.own), 0.0,
                                        dict(got.shared)), leaf)[0]
    assert torch.allclose(one[2], drawn[2] - 0.3 * slope, atol=1e-6)  # by itself, not the mean
    assert torch.equal(AHardUsers(steps=0).vectors(got, drawn, items), drawn)


def test_what_clients_make_up_differs_between_clients_and_rounds(data):
    attack = ARandom()
    got, ctx = sent(attack, data, deep()), Context(0)
    one, two = Client(40), Client(41)
    made = [attack.upload(got, who, TARGETS, ctx) for who in (one, one, two, Client(40))]
    key = "item_mlp_embedding.weight"
    assert not torch.equal(made[0][key], made[1][key])
    assert not torch.equal(made[0][key], made[2][key])
    assert torch.equal(made[0][key], made[3][key])


# -- FedRecAttack ------------------------------------------------------------------------------

def slow_loss(q: Tensor, offset: Tensor, p: Tensor, has: Tensor, targets: list[int],
              top: int) -> Tensor:
    """Σ_u Σ_t elu(s_(list tail) − s_t), user by user."""
    losses = []
    for u in range(len(p)):
        s = p[u] @ q.T + offset  # (n_items,)
        shown = [i for i in s.argsort(descending=True).tolist()
                 if not has[u, i] and i not in targets][:top]
        for t in targets:
            if not has[u, t]:
                gap = s[shown.pop()] - s[t]
                losses.append(gap if gap > 0 else gap.exp() - 1)
    return torch.stack(losses).sum()


def test_fed_rec_attacks_gradient_is_that_of_its_loss(data):
    attack = FedRecAttack(known=0.3, top=6, targets=2)
    got = sent(attack, data)
    centre = _Centre(attack, got, TARGETS, Context(0), "items.weight")
    with torch.no_grad():
        centre.vectors.normal_(0, 0.7, generator=torch.Generator().manual_seed(3))
    q, offset = got.shared["items.weight"], torch.randn(32, generator=torch.Generator())
    found = centre.climb(q, offset)
    leaf = q.clone().requires_grad_()
    loss = slow_loss(leaf, offset, centre.vectors.detach(), centre.has, TARGETS.tolist(), 6)
    assert torch.allclose(found, torch.autograd.grad(loss, leaf)[0], atol=1e-5)
    step = 1e-3  # and by finite differences, of float64
    wide = q.double()
    for row, column in ((4, 0), (9, 3), (int(found.norm(dim=1).argmax()), 2)):
        moved = []
        for sign in (1, -1):
            other = wide.clone()
            other[row, column] += sign * step
            moved.append(float(slow_loss(other, offset.double(), centre.vectors.detach().double(),
                                         centre.has, TARGETS.tolist(), 6)))
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(float(found[row, column]),
                                                                   rel=1e-2, abs=1e-3)


def test_clients_share_one_gradient_and_each_takes_its_part_off(data):
    attack = FedRecAttack(known=0.3, items=10, noise=0.0, targets=2)
    made = engine(attack, data, clip=0.05)
    made.number = 1
    whole = _Centre(attack, made.sent(), TARGETS, Context(0), "items.weight").gradient_of(
        made.sent()).clone()
    clients = [Client(u) for u in range(40, 52)]
    uploads = [attack.bounded_upload(made.sent(), c, TARGETS, Context(0))["items.weight"]
               for c in clients]
    rest = made._together["centre"].rest
    assert torch.allclose(sum(uploads) + rest, whole, atol=1e-5)
    for upload in uploads:
        rows = upload.norm(dim=1)
        assert int((rows > 0).sum()) <= 10
        assert float(rows.max()) <= 0.05 * (1 + 1e-6)
    assert float(uploads[0][TARGETS].norm(dim=1).min()) == pytest.approx(0.05, rel=1e-5)
    again = [attack.bounded_upload(made.sent(), c, TARGETS, Context(0))["items.weight"]
             for c in clients[:2]]  # the same round goes on: what is left
    assert not torch.equal(again[0], uploads[0])
    kept = set(clients[0].memory["rows"].tolist())
    assert set(TARGETS.tolist()) < kept
    assert len(kept) == 10
    assert kept != set(clients[1].memory["rows"].tolist())


def test_the_fitted_users_prefer_what_they_are_known_to_have(data):
    attack = FedRecAttack(known=0.5, fit_rate=0.1)
    got = sent(attack, data)
    centre = _Centre(attack, got, TARGETS, Context(0), "items.weight")
    q = got.shared["items.weight"]
    offset = torch.zeros(32)
    for _ in range(40):
        centre.fit(q, offset)
    scores = centre.vectors.detach() @ q.T
    has = centre.has
    assert float(scores[has].mean()) > float(scores[~has].mean()) + 1


def pairs(rows: Interactions) -> set[tuple[int, int]]:
    return set(zip(rows.users.tolist(), rows.items.tolist(), strict=True))


@pytest.mark.parametrize("known", [1e-6, 0.01, 0.2, 0.37, 1.0])
def test_an_attacker_sees_the_stated_share_of_all_rows(data, known):
    """round(known · rows), genuine train rows alone; of each user's n either side of known · n."""
    n, rows = data.activity, len(data.train)
    seen = FedRecAttack(known=known).seen(FedRecAttack().before_training(data, Context(0)),
                                          Context(0))
    assert len(seen) == len(pairs(seen)) == max(1, round(known * rows))
    each = np.bincount(seen.users, minlength=40)
    assert (each >= np.floor(known * n - 0.1)).all()  # the cut lies a little beside `known`
    assert (each <= np.ceil(known * n + 0.1)).all()
    assert pairs(seen) <= pairs(data.train)


def test_no_user_shows_more_of_a_share_than_others_in_the_mean(data):
    """Nor any row of a user: over many seeds each is seen as often as `known` says."""
    known, draws = 0.15, 400
    times = dict.fromkeys(pairs(data.train), 0)
    for seed in range(draws):
        for pair in pairs(FedRecAttack(known=known).seen(data, Context(seed))):
            times[pair] += 1
    share = np.array(list(times.values())) / draws
    assert abs(share.mean() - known) < 0.002
    spread = (known * (1 - known) / draws) ** 0.5
    assert np.abs(share - known).max() < 5 * spread
    users = np.array([u for u, _ in times])
    by_user = np.bincount(users, share) / np.bincount(users)
    assert np.abs(by_user - known).max() < 2.5 * spread


def test_shares_rounded_up_are_those_of_the_authors_code(data):
    """⌈known · n⌉ of the n of each, and the budget says that it is more than `known`."""
    for known in (0.01, 0.2, 0.5, 1.0):
        seen = FedRecAttack(known=known, round_up=True).seen(data, Context(0))
        each = np.bincount(seen.users, minlength=40)
        assert np.array_equal(each, np.ceil(known * data.activity - 1e-9).astype(int))
        assert len(pairs(seen)) == len(seen)
        assert pairs(seen) <= pairs(data.train)
    assert "1 % of the interactions, rounded up" in FedRecAttack(round_up=True).budget_text()


def test_what_is_seen_depends_on_the_seed_and_grows_with_the_share(data):
    less, more = (pairs(FedRecAttack(known=k).seen(data, Context(0))) for k in (0.2, 0.4))
    assert less < more
    assert pairs(FedRecAttack(known=0.2).seen(data, Context(1))) != less
    assert len(ARandom().seen(data, Context(0))) == 0


def test_what_an_attacker_sees_stands_in_the_budget_and_is_compared(data):
    one, two = FedRecAttack(known=0.01), FedRecAttack(known=0.05)
    assert one.comparable() != two.comparable()
    for plugin, share in ((one, "sees 1 %"), (two, "sees 5 %")):
        assert share in plugin.budget_text()
        assert share in plugin.comparable()
    assert "sees" not in ARandom().budget_text() + RandomClients().comparable()


# -- random clients ----------------------------------------------------------------------------

@pytest.mark.parametrize("plugin", [None, FCF(dim=6), deep()], ids=["bprmf", "fcf", "NeuMF"])
def test_random_clients_upload_noise_of_the_largest_size_on_targets_and_others(data, plugin):
    """Wherever an attack acts; the directions have no mean, and are drawn anew in every round."""
    attack = RandomClients(items=6, targets=2)
    got = dataclasses.replace(sent(attack, data, plugin), clip=0.3)
    own, first = Client(40), []
    for _ in range(400):
        upload = attack.bounded_upload(got, own, TARGETS, Context(0))
        assert set(upload) == set(got.items)
        key = next(k for k in upload if upload[k].dim() == 2)
        rows = upload[key][slice(*got.items[key])]
        touched = torch.nonzero(rows.ne(0).any(dim=1))[:, 0]
        assert len(touched) == 6
        assert set(TARGETS) <= set(touched.tolist())
        assert torch.allclose(rows[touched].norm(dim=1), torch.full((6,), 0.3))
        first.append(rows[touched])
    assert float(torch.stack(first).mean(dim=0).norm(dim=1).max()) < 0.3 * 4 / 400**0.5
    again = attack.bounded_upload(got, Client(40), TARGETS, Context(0))
    other = attack.bounded_upload(got, Client(41), TARGETS, Context(0))
    assert torch.equal(again[key][slice(*got.items[key])][touched], first[0])
    assert not torch.equal(again[key], other[key])


def test_random_clients_act_wherever_attacks_do(data):
    """On every model and defense that some attack accepts, with budgets that compare as equals."""
    control = RandomClients(budget=0.02, items=30, targets=2)
    for plugin in (BPRMF(), FCF(), deep(), member("BPR")(), member("NGCF")(), member("SASRec")(),
                   RatingMF()):
        theirs = [a.unfit(plugin, data) for a in (ARandom(), AHardUsers(), FedRecAttack())]
        assert None not in theirs or control.unfit(plugin, data) is None
    for cls in (ARandom, AHardUsers, FedRecAttack):
        same = cls(budget=0.02, items=30, targets=2)
        theirs = same.comparable().removesuffix(", sees 1 % of the interactions")
        assert theirs == control.comparable()
        assert cls(budget=0.021, items=30, targets=2).comparable() != control.comparable()
        assert same.threat_model().stage == control.threat_model().stage


def test_clients_no_better_than_noise_break_the_contract(monkeypatch):
    from bench import _contracts_clients as clients
    from bench._contracts_lab import Lab
    from bench.registry import Registry
    from bench.testing import ContractError

    lab = Lab("attacks", FedRecAttack, Registry())
    for mine, breaks in ((0.1, True), (0.2, True), (0.3, False)):
        monkeypatch.setattr(clients, "_gain", lambda lab, who, ctx, mine=mine:
                            0.2 if who.name == "random-clients" else mine)
        if breaks:
            with pytest.raises(ContractError, match=r"noise of that size \+20.0%"):
                clients.pushes_the_targets(lab)
        else:
            clients.pushes_the_targets(lab)


# -- what the base class holds them to ---------------------------------------------------------

class Loud(ClientAttack):
    """Uploads what it is told; no paper."""

    name = "loud"

    def upload(self, sent, own, targets, ctx):  # type: ignore[no-untyped-def]
        return LOUD(sent)


LOUD = dict


@pytest.mark.parametrize(("make", "text"), [
    (lambda s: {"items.weight": torch.ones(32, 6)}, "long, the clip is 1"),
    (lambda s: {"users.weight": torch.zeros(42, 6)}, "no shared parameter"),
    (lambda s: {"items.weight": torch.zeros(31, 6)}, "finite numbers are needed"),
    (lambda s: {"items.weight": torch.full((32, 6), math.nan)}, "finite numbers are needed"),
    (lambda s: {"bias": torch.full((32,), 0.1)}, "touches 32 items, the budget is 8"),
    (lambda s: {"bias": torch.eye(32)[0], "items.weight": 0.1 * torch.eye(32)[:, 1:7]},
     None)])
def test_uploads_beyond_the_budget_are_refused(data, make, text, monkeypatch):
    monkeypatch.setitem(globals(), "LOUD", make)
    attack = Loud(items=8)
    got = sent(attack, data)
    if text is None:
        assert set(attack.bounded_upload(got, Client(40), TARGETS, Context(0))) == {
            "bias", "items.weight"}
        return
    with pytest.raises(PluginError, match=text):
        attack.bounded_upload(got, Client(40), TARGETS, Context(0))


def test_writing_into_what_was_sent_changes_nothing(data, monkeypatch):
    def spoil(got: Sent) -> dict[str, Tensor]:
        for w in got.shared.values():
            w.zero_()
        return {}

    monkeypatch.setitem(globals(), "LOUD", spoil)
    attack = Loud(budget=0.5)
    attacked, clean = engine(attack, data, clients=0), engine(None, data, clients=0)
    for made in (attacked, clean):
        with made.model.ctx.seeded("train"):
            made.run_epoch(1)
    for key in ("items.weight", "bias"):  # empty uploads: the honest clients' model
        assert torch.allclose(attacked.model.state()[key], clean.model.state()[key], atol=1e-6)


@pytest.mark.parametrize("secure", ["none", "masks"])
@pytest.mark.parametrize("honest", [True, False])
def test_a_mean_over_clients_counts_the_malicious_ones(data, honest, secure, monkeypatch):
    """Brute force: 40 clients who learn and 10 who upload the same row; the server, who cannot
    tell them apart, divides the sum by 50. A round of malicious clients alone is divided too."""
    row = torch.zeros(32, 6)
    row[3] = 0.4
    monkeypatch.setitem(globals(), "LOUD", lambda sent: {"items.weight": row.clone()})
    plugin = BPRMF(dim=6, init_std=0.5, optimizer="sgd", learning_rate=0.5)
    attack = Loud(budget=0.25)
    made, start = (engine(attack, data, plugin, clients=0, weights="equal", secure=secure)
                   for _ in range(2))
    rows, who = dp.UserRows(made.model, 1), torch.arange(0 if honest else 40, 50)
    made.round(rows, who, 1)
    total, before = 10 * row, start.model.module
    if honest:
        batch, counts = rows.take(torch.arange(40), 1, 99)
        ups = list(fed.one_by_one(start.model, start.where, batch, counts, fed.Local()))
        total = total + sum(u.shared["items.weight"][0] / n for u, n in zip(ups, counts,
                                                                            strict=True))
        own = torch.cat([u.own["users.weight"] for u in ups]) / counts[:, None]
        assert torch.allclose(made.model.module.users.weight[:40],
                              before.users.weight[:40] - 0.5 * own / 50, atol=1e-5)
    assert torch.allclose(made.model.module.items.weight,
                          before.items.weight - 0.5 * total / len(who), atol=1e-5)


@pytest.mark.parametrize(("honest", "quoted"), [(1.0, False), (0.5, True)])
def test_malicious_clients_add_no_noise_and_privacy_does_not_count_on_them(data, honest, quoted):
    from bench.training import FitResult

    made = engine(FedRecAttack(budget=0.25, items=5), data, clients=25, weights="equal",
                  user_clip=0.1, noise_multiplier=2.0, honest=honest, secure="masks")
    seen = {}
    add = made.aggregator.add
    made.aggregator.add = lambda clients, g: (  # type: ignore[method-assign]
        seen.update(zip(clients, g["items.weight"], strict=True)), add(clients, g))[1]
    made.run_epoch(1)
    touched = {u: int(g.ne(0).any(dim=1).sum()) for u, g in seen.items()}
    assert len(touched) == 50
    assert all((n == 32) if u < 40 else (n <= 5) for u, n in touched.items())
    assert bool(made.hyper.spent(FitResult(notes=made.loop.notes))) is quoted
    assert made.facts["least_noise"] >= 1.0 if quoted else made.facts["least_noise"] < 1.0


def test_malicious_clients_take_part_as_others_do(data):
    made = engine(FedRecAttack(budget=0.25, items=5), data, clients=10)
    seen: list[int] = []
    took = made._send
    made._send = lambda clients, up: (seen.extend(clients), took(clients, up))[1]
    for epoch in (1, 2):
        made.run_epoch(epoch)
    assert sorted(seen) == sorted([*range(50)] * 2)
    assert made.facts["malicious_per_round"] == 2.0
    assert made.facts["rounds"] == 10


def test_who_cannot_act_says_why(data):
    federated, hum, rec = Federated(), AHardUsers(), FedRecAttack()
    assert rec.unfit(BPRMF(), data) is None
    assert rec.unfit(FCF(), data) is None
    assert hum.unfit(member("NeuMF")(), data) is None
    assert "in no direction" in (hum.unfit(BPRMF(), data) or "")
    assert "no dot product" in (rec.unfit(member("NeuMF")(), data) or "")
    assert "for a user vector of their own" in (ARandom().unfit(RatingMF(), data) or "")
    assert "for a user vector of their own" in (ARandom().unfit(member("SASRec")(), data) or "")
    assert rec.unfit_defended(federated, BPRMF(), data) is None
    assert "federated" in (rec.unfit_defended(NoDefense(), BPRMF(), data) or "")
    assert "no budget" in (rec.unfit_defended(Federated(clip=math.inf), BPRMF(), data) or "")
    assert "cannot hold" in (FedRecAttack(items=2, targets=3).unfit(BPRMF(), data) or "")


# -- in a run ----------------------------------------------------------------------------------

GRID = """\
name: federated
seeds: [0]
datasets: [{blocks: {users: 30, items: 40}}]
models: [{bprmf: {dim: 4, epochs: 3, patience: 0}}]
attacks: [{fed-rec-attack: {budget: 0.1, items: 5, known: 0.2, stratum: tail}}]
defenses: [{federated: {clients: 10}}]
metrics: [ndcg@5, target-hr@5]
"""


def test_a_run_has_the_attack_where_clients_are(tmp_path, monkeypatch):
    from bench.run import run

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.report.report", lambda folder: 0)
    (tmp_path / "grid.yaml").write_text(GRID)
    assert run(tmp_path / "grid.yaml", results=tmp_path / "run") == 0
    cells = [json.loads(p.read_text()) for p in (tmp_path / "run").rglob("cells/*.json")]
    by = {(c["defense"]["name"], c["attack"]["name"]): c for c in cells}
    assert by["none", "fed-rec-attack"]["status"] == "skipped"
    assert "federated" in by["none", "fed-rec-attack"]["reason"]
    attacked = by["federated", "fed-rec-attack"]
    assert attacked["status"] == "ok"
    assert attacked["threat"]["stage"] == "model-poison"
    assert attacked["threat"]["adaptive"]
    facts = attacked["facts"]
    assert facts["n_fake"] == 3
    assert facts["users_evaluated"] == by["federated", "none"]["facts"]["users_evaluated"] <= 30
    assert facts["training"]["federated"]["malicious_per_round"] > 0
    told = facts["training"]["attacker"]
    assert told["interactions_seen"] == round(0.2 * told["of"])
    assert len(facts["targets"]) == 1


# -- published figures -------------------------------------------------------------------------

def script():  # type: ignore[no-untyped-def]
    path = Path(__file__).parents[1] / "scripts" / "reproduce_fed_rec_attack.py"
    spec = importlib.util.spec_from_file_location("reproduce_fed_rec_attack", path)
    assert spec is not None
    assert spec.loader is not None
    import sys

    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_the_published_exposure_on_ml_100k_is_met():
    """ER@5 .387 after one epoch, .781 after five, with 5 % malicious clients; over three targets
    and seeds ours are .31 to .34 and .78 to .89. Epochs 2 to 4 lie between."""
    published = script()
    found = published.run(published.their_data(), seed=0, epochs=3)
    five = [r[0] for r in found.ratios]
    assert five[0] < 0.03
    for epoch in (1, 2, 3):
        assert five[epoch] == pytest.approx(published.PUBLISHED[epoch][0], abs=0.1)
    assert five[1] < five[2] < five[3]

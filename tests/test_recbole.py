"""The RecBole adapter: ids, scores, tables, state and what it leaves alone in the process."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import random
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

from bench.api import Dataset, Interactions, ModelPlugin
from bench.context import Context
from bench.data import KnowledgeGraph
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import BenchError, InputError, PluginError
from bench.models import recbole
from bench.models.base import Recommender, TorchRecommender, build
from bench.perturb import gradient

CTX = Context(0)
SOME = ["BPR", "LightGCN", "NeuMF", "MultiVAE", "CDAE", "FISM", "SimpleX", "RecVAE", "SGL", "DMF",
        "ItemKNN", "EASE", "Pop", "SASRec", "GRU4Rec", "BERT4Rec", "FPMC", "SHAN", "SASRecF",
        "FM", "FFM", "DSSM", "KGAT", "CKE", "MKR", "XGBoost"]
TABLED = [n for n in SOME if {"embeddings", "gradients"} <= set(recbole.facts()[n]["gives"])]


@cache
def data() -> Dataset:
    """20 users, 24 items, attributes of every kind, a knowledge graph, more items than users."""
    made = Blocks(users=20, items=24, length=8).load()
    genres = [column[0] for column in made.item_attributes["genre"]]
    ids = made.item_ids
    graph = KnowledgeGraph(heads=[f"e:{i}" for i in ids], relations=["genre"] * len(ids),
                           tails=genres, item_entities={i: f"e:{i}" for i in ids})
    age = np.asarray(made.user_attributes["age"], np.float64).copy()
    age[3] = np.nan
    year = np.array([1990.0 + k for k in range(24)])
    return made.replace(knowledge=graph, user_attributes={**made.user_attributes, "age": age},
                        item_attributes={**made.item_attributes, "year": year})


@cache
def poisoned() -> Dataset:
    rows = Interactions(users=np.repeat(np.arange(3), 4), items=np.tile([0, 5, 7, 11], 3),
                        ratings=np.full(12, 5.0), times=np.arange(12.0))
    return data().with_fakes(rows, 3)


def plugin(name: str, **given: object) -> ModelPlugin:
    cls = recbole.member(name)
    return cls(**{**cls.test_params(), **given})


def trained(name: str, on: Dataset, epochs: int = 1) -> Recommender:
    fields = recbole.member(name).__dataclass_fields__
    given = {"epochs": epochs} if "epochs" in fields else {}
    given |= {"patience": 0} if "patience" in fields else {}
    model = build(plugin(name, **given), on, CTX)
    model.fit(NoDefense(), lambda event: None)
    return model


def scores(model: Recommender, split: str = "test") -> torch.Tensor:
    return model.scores(torch.arange(model.data.n_users), split)


# -- names and parameters ------------------------------------------------------------------------

def test_all_94_names_are_listed_and_made_without_heavy_imports() -> None:
    code = ("import sys; from bench.models import recbole\n"
            "made = [recbole.member(n) for n in recbole.members()]\n"
            "assert len(made) == 94 and [c.name for c in made] == recbole.members()\n"
            "print([m for m in ('torch', 'pandas', 'scipy', 'recbole') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    assert done.stdout.strip() == "[]"


def test_names_are_those_of_recbole() -> None:
    folder = recbole.properties_folder()
    assert folder is not None
    files = {p.stem.lower() for p in folder.glob("*.yaml")} | {"random"}
    assert {n.lower() for n in recbole.members()} == files


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(InputError, match="LightGCN"):
        recbole.member("LightGNC")


@pytest.mark.parametrize("name", recbole.members())
def test_parameters_survive_json_and_have_help(name: str) -> None:
    import json

    cls = recbole.member(name)
    made = cls(**cls.test_params())
    assert cls.from_params(json.loads(json.dumps(made.params()))) == made
    for field in dataclasses.fields(cls):
        assert field.metadata["help"], field.name
        assert not field.metadata["choices"] or field.default in field.metadata["choices"]
    assert "RecBole 1.2.1" in (cls.__doc__ or "")


def test_values_have_the_types_that_recbole_means() -> None:
    assert recbole.member("LightGCN")().reg_weight == 1e-5  # YAML alone reads a string
    assert isinstance(recbole.member("AFM")().reg_weight, float)
    assert recbole.member("NeuMF")().mlp_hidden_size == (128, 64)
    assert recbole.member("CKE")().reg_weights == (1e-2, 1e-2)
    assert isinstance(recbole.member("XGBoost")().eta, float)
    assert recbole.member("SASRec").__dataclass_fields__["loss_type"].metadata["choices"] == (
        "BPR", "CE")


def test_code_in_a_parameter_is_never_run() -> None:
    with pytest.raises(PluginError, match="teacher"):
        build(plugin("KD_DAGFM", teacher="print"), data(), CTX)


# -- what cannot run -------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "changes", "reason"), [
    ("KGAT", {"knowledge": None}, "knowledge graph"),
    ("SASRecF", {"item_attributes": {}}, "item attribute"),
    ("SASRec", {"train": data().train.__class__(data().train.users, data().train.items),
                "valid": Interactions.empty(), "test": Interactions(
                    data().test.users, data().test.items)}, "times")])
def test_a_missing_need_is_a_reason(name: str, changes: dict[str, object], reason: str) -> None:
    without = data().replace(**changes)
    assert plugin(name).unfit(data()) is None
    assert reason in (plugin(name).unfit(without) or "")
    with pytest.raises(BenchError, match=reason):
        build(plugin(name), without, CTX)


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *a: None if name == "lightgbm" else found(name, *a))
    assert "pip install lightgbm" in (plugin("LightGBM").unfit(data()) or "")


def test_no_negatives_at_all_is_a_reason() -> None:
    assert "negatives" in (plugin("FM", negatives=0).unfit(data()) or "")
    labels = (data().train.items % 3 > 0).astype(np.int8)
    train = Interactions(data().train.users, data().train.items, data().train.ratings,
                         data().train.times, labels)
    labelled = data().replace(train=train)
    assert plugin("FM", negatives=0).unfit(labelled) is None
    model = build(plugin("FM", negatives=0), labelled, CTX)
    assert isinstance(model, TorchRecommender)
    seen = torch.cat([batch["labels"] for batch in model.batches(1, 64)])
    assert sorted(seen.tolist()) == sorted(labels.astype(float).tolist())


# -- ids -------------------------------------------------------------------------------------------

def test_no_real_id_moves_when_fakes_are_injected() -> None:
    from bench.models._recbole_build import settings
    from bench.models._recbole_data import ArrayDataset

    def made(on: Dataset) -> ArrayDataset:
        return ArrayDataset(settings(plugin("KGAT"), recbole.facts()["KGAT"], CTX), on, True)

    clean, attacked = made(data()), made(poisoned())
    n = len(data().train)
    for field, ids in (("user_id", data().user_ids), ("item_id", data().item_ids)):
        for k, name in enumerate(ids):
            assert clean.token2id(field, name) == attacked.token2id(field, name) == k + 1
        assert torch.equal(attacked.inter_feat[field][:n], clean.inter_feat[field])
    assert attacked.user_num == clean.user_num + 3 == 24
    assert attacked.item_num == clean.item_num == 25
    assert attacked.inter_feat["user_id"][n:].tolist() == [21] * 4 + [22] * 4 + [23] * 4
    for field, values in clean.user_feat.interaction.items():
        assert torch.equal(attacked.user_feat[field][:21], values)
        if field != "user_id":
            assert not attacked.user_feat[field][21:].any(), field  # nobody knows their attributes
    assert torch.equal(attacked.kg_feat["head_id"], clean.kg_feat["head_id"])


def test_attributes_become_fields_with_padding_for_what_is_missing() -> None:
    model = build(plugin("FM"), data(), CTX)
    feature = model.dataset.user_feat  # type: ignore[attr-defined]
    assert feature["user:age"][4].tolist() == [0.0, 0.0]  # user 3 has none
    low, high = np.nanmin(data().user_attributes["age"]), np.nanmax(data().user_attributes["age"])
    expected = (float(data().user_attributes["age"][0]) - low) / (high - low)
    assert feature["user:age"][1].tolist() == pytest.approx([expected, 1.0])
    assert feature["user:gender"][0] == 0
    names = model.dataset.field2id_token["user:gender"]  # type: ignore[attr-defined]
    assert [names[k] for k in feature["user:gender"][1:]] == list(data().user_attributes["gender"])


def test_entities_of_items_have_the_numbers_of_the_items() -> None:
    model = build(plugin("CKE"), data(), CTX)
    made = model.dataset  # type: ignore[attr-defined]
    assert made.kg_feat["head_id"].tolist() == list(range(1, 25))
    assert int(made.kg_feat["tail_id"].min()) == 25
    assert made.entity_num == 25 + 4
    assert made.relation_num == 3  # padding, genre, user-item


# -- RecBole's own pipeline ---------------------------------------------------------------------

@cache
def _own_pipeline(folder: str, name: str) -> tuple[object, object]:
    """RecBole's dataset from atomic files, its own loader and configuration, and its model."""
    from bench.models._recbole_compat import contained

    with contained():
        from recbole.config import Config
        from recbole.data.dataset import Dataset as TheirDataset
        from recbole.utils import get_model

        config = Config(model=name, dataset="toy", config_dict={
            "data_path": folder, "use_gpu": False, "eval_args": {
                "split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": None,
                "mode": "full"}})
        config["device"] = torch.device("cpu")
        dataset = TheirDataset(config)
        dataset._change_feat_format()
        model = get_model(name)(config, dataset)
    return dataset, model


@pytest.fixture(scope="module")
def atomic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our train rows as RecBole's file, in another order, so that its numbers differ from ours."""
    folder = tmp_path_factory.mktemp("atomic")
    (folder / "toy").mkdir()
    rows = data().train.positives()
    lines = ["user_id:token\titem_id:token"]
    for k in np.random.default_rng(5).permutation(len(rows)):
        lines.append(f"{data().user_ids[rows.users[k]]}\t{data().item_ids[rows.items[k]]}")
    (folder / "toy" / "toy.inter").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "ItemKNN"])
def test_scores_agree_with_recbole_on_the_same_weights(name: str, atomic: str) -> None:
    theirs, their_model = _own_pipeline(atomic, name)
    ours = trained(name, data())
    items = [i for i in range(24) if data().item_ids[i] in theirs.field2token_id["item_id"]]
    user_at = [theirs.token2id("user_id", u) for u in data().user_ids]
    item_at = [theirs.token2id("item_id", data().item_ids[i]) for i in items]
    assert user_at != list(range(1, 21))
    if name != "ItemKNN":
        with torch.no_grad():
            for at, rows, kept in ((user_at, "user_embedding", range(20)),
                                   (item_at, "item_embedding", items)):
                source = ours.module.get_parameter(f"{rows}.weight")
                getattr(their_model, rows).weight[at] = source[[k + 1 for k in kept]]
    their_model.eval()
    made = their_model.full_sort_predict({"user_id": torch.tensor(user_at)})
    made = made.reshape(20, -1)[:, item_at].float()
    torch.testing.assert_close(scores(ours)[:, items], made, rtol=1e-4, atol=1e-5)
    assert float(made.std()) > 0


def test_history_matrices_hold_the_same_as_recboles_own() -> None:
    from bench.models._recbole_data import ArrayDataset, KnowledgeBasedDataset

    made = build(plugin("MultiVAE"), data(), CTX).dataset  # type: ignore[attr-defined]
    for row in ("user", "item"):
        ids, values, lengths = ArrayDataset._history_matrix(made, row)
        expected, worth, count = KnowledgeBasedDataset._history_matrix(made, row)
        assert torch.equal(lengths, count)
        assert torch.equal(ids.sort(dim=1).values, expected.sort(dim=1).values)
        assert torch.equal(values.sum(dim=1), worth.sum(dim=1))
    ids, _, lengths = ArrayDataset._history_matrix(made, "user", max_history_len=3)
    assert ids.shape == (21, 3)
    newest = data().train[data().train.users == 4]
    newest = newest.items[np.argsort(newest.times)][-3:] + 1
    assert ids[5].tolist() == newest.tolist()


# -- learning and scoring -----------------------------------------------------------------------

def _check(name: str) -> None:
    """Trains a little, scores, gives its state back, and is what it says it is."""
    on = data()
    model = trained(name, on)
    found = scores(model)
    assert found.shape == (20, 24)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.equal(found, scores(model)), "scoring twice gives two answers"
    parts = torch.cat([model.scores(torch.tensor([u]), "test") for u in (3, 7)])
    torch.testing.assert_close(parts, found[[3, 7]], rtol=1e-4, atol=1e-5)
    state = model.state()
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    again = build(model.hyper, on, CTX)  # type: ignore[attr-defined]
    again.load_state(state)
    torch.testing.assert_close(scores(again), found, rtol=0, atol=1e-6)
    gives = model.hyper.gives  # type: ignore[attr-defined]
    assert ("gradients" in gives) == (recbole.facts()[name]["training"] == "loop")
    assert ("histories" in gives) == (recbole.facts()[name]["family"] == "sequential")
    tables = model.tables() if isinstance(model, TorchRecommender) else {}
    assert ("embeddings" in gives) == bool(tables)
    for table in tables.values():
        assert len(table.rows()) == {"user": on.n_users, "item": on.n_items}[table.role]
        assert table.rows().shape[1] > 1


@pytest.mark.parametrize("name", SOME)
def test_it_trains_scores_and_comes_back_from_its_state(name: str) -> None:
    _check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in recbole.members() if n not in SOME])
def test_every_other_model_too(name: str) -> None:
    _check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in recbole.members()
                                  if "user-separable" in recbole.facts()[n]["gives"]])
def test_two_users_gradient_is_made_of_theirs_alone(name: str) -> None:
    """With weights left open, as a mean divides by the rows; see the contract of models."""
    model = build(plugin(name), data(), CTX)
    assert isinstance(model, TorchRecommender)
    batch = next(iter(model.batches(1, 4096)))
    weights = [p for p in model.module.parameters() if p.requires_grad]

    def slope(users: torch.Tensor) -> torch.Tensor:
        rows = torch.isin(batch["users"], users)
        with CTX.seeded("slope"):
            found = torch.autograd.grad(model.loss({k: v[rows] for k, v in batch.items()}),
                                        weights, allow_unused=True)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for p, g in zip(weights, found)]).double()

    pair = torch.unique(batch["users"])[3:5]
    apart = torch.stack([slope(pair[:1]), slope(pair[1:])], dim=1)  # (coordinates, 2)
    together = slope(pair)
    shares = torch.linalg.lstsq(apart, together[:, None]).solution
    assert bool((shares > 0).all())
    assert float((together - (apart @ shares)[:, 0]).norm()) < 1e-3 * float(together.norm())


SLOW_TABLED = [pytest.param(n, marks=pytest.mark.slow) for n in recbole.members()
               if n not in SOME and {"embeddings", "gradients"} <= set(recbole.facts()[n]["gives"])]


@pytest.mark.parametrize("name", TABLED + SLOW_TABLED)
def test_gradients_reach_every_table(name: str) -> None:
    model = build(plugin(name), data(), CTX)
    assert isinstance(model, TorchRecommender)
    found, loss = gradient(model, list(model.batches(1, 64)), list(model.tables()))
    assert np.isfinite(loss)
    for key, g in found.items():
        assert float(g.abs().max()) > 0, key


@pytest.mark.parametrize("name", TABLED + SLOW_TABLED)
def test_a_perturbation_is_the_same_in_the_loss_as_in_the_table(name: str) -> None:
    model = build(plugin(name), data(), CTX)
    assert isinstance(model, TorchRecommender)
    batch = next(iter(model.batches(1, 64)))
    before = scores(model)
    delta = {k: 0.3 * torch.randn(t.rows().shape, generator=CTX.torch_stream("d", k))
             for k, t in model.tables().items()}
    with CTX.seeded("loss"):
        clean = float(model.loss(batch).detach())
    with CTX.seeded("loss"):
        moved = float(model.loss(batch, delta).detach())
    with model.perturbed(delta), CTX.seeded("loss"):
        really = float(model.loss(batch).detach())
        assert not torch.equal(scores(model), before)
    assert moved == pytest.approx(really, rel=1e-5)
    assert abs(moved - clean) > 1e-6
    assert torch.equal(scores(model), before), "the table did not come back"


@pytest.mark.parametrize("name", ["BPR", "NeuMF", "DMF", "FM", "FFM", "DSSM", "SASRec", "DIEN",
                                  "FPMC", "KGAT", "CDAE"])
def test_clean_and_poisoned_start_from_the_same_rows(name: str) -> None:
    clean = build(plugin(name), data(), CTX)
    attacked = build(plugin(name), poisoned(), CTX)
    assert isinstance(clean, TorchRecommender)
    assert isinstance(attacked, TorchRecommender)
    theirs = attacked.tables()
    for key, table in clean.tables().items():
        assert torch.equal(theirs[key].rows()[:len(table.rows())], table.rows()), key
        if table.role == "user":
            assert len(theirs[key].rows()) == len(table.rows()) + 3
    mine, source = dict(attacked.module.named_parameters()), dict(clean.module.named_parameters())
    same = [n for n in source if source[n].shape == mine[n].shape]
    assert same or name in ("BPR", "KGAT")
    assert all(torch.equal(source[n], mine[n]) for n in same)


def test_shared_tables_keep_each_field_when_users_are_added() -> None:
    """In one table of all fields, three more users push every later field down by three rows."""
    clean, attacked = build(plugin("FM"), data(), CTX), build(plugin("FM"), poisoned(), CTX)
    name = "token_embedding_table.embedding.weight"
    before, after = (m.module.get_parameter(name) for m in (clean, attacked))  # type: ignore
    assert torch.equal(after[:21], before[:21])
    assert torch.equal(after[24:], before[21:])


@pytest.mark.parametrize("name", ["BPR", "CDAE", "SGL", "FM", "SASRec", "MultiVAE"])
def test_a_doubled_batch_tells_a_sum_from_a_mean(name: str) -> None:
    model = build(plugin(name), data(), CTX)
    assert isinstance(model, TorchRecommender)
    batch = next(iter(model.batches(1, 64)))
    doubled = {k: torch.cat([v, v]) for k, v in batch.items()}
    losses = []
    for rows in (batch, doubled):
        with CTX.seeded("loss"):
            losses.append(float(model.loss(rows).detach()))
    assert losses[1] / losses[0] == pytest.approx(2.0 if model.sums_loss else 1.0, rel=0.02)


# -- batches ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "SASRecF"])
def test_a_window_learns_what_its_prefixes_learn(name: str) -> None:
    """With dropout off, and histories that fit, the mean over all places of the windows is the
    mean over all prefixes, in the loss and in its gradient."""
    grads = []
    for rows in ("windows", "prefixes"):
        model = build(plugin(name, rows=rows, max_length=20), data(), CTX)
        assert isinstance(model, TorchRecommender)
        batches = list(model.batches(1, 10_000))
        assert len(batches) == 1
        if rows == "windows":  # one window per user needs the first cut to be beyond its end
            model.sampler.hyper = plugin(name, rows=rows, max_length=20)
            width = (batches[0]["targets"] >= 0).sum()
            assert int(width) == len(data().train) - 20
            batches = [_uncut(model)]
        loss = model.loss(batches[0])
        loss.backward()  # type: ignore[no-untyped-call]
        grads.append((float(loss.detach()), model.module.item_embedding.weight.grad.clone()))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-6)


def _uncut(model: TorchRecommender) -> dict[str, torch.Tensor]:
    """One window per user: everything before the last item, and what follows each place."""
    users = torch.arange(20)
    history, length = model.sampler.sequences.histories(users, "valid")  # type: ignore
    targets = torch.full_like(history, -1)
    targets[:, :-1] = history[:, 1:]
    place = torch.arange(history.shape[1])[None, :]
    targets = torch.where(place < length[:, None] - 1, targets, -1)
    items = history.gather(1, (length - 1)[:, None])[:, 0]
    inputs = torch.where(place < length[:, None] - 1, history, -1)
    return {"users": users, "items": items, "histories": inputs, "lengths": length - 1,
            "targets": targets}


def test_windows_cover_every_next_item_once() -> None:
    model = build(plugin("SASRec", max_length=3), data(), CTX)
    assert isinstance(model, TorchRecommender)
    pairs, seen = [], set()
    for epoch in (1, 2):
        for batch in model.batches(epoch, 7):
            assert int(batch["lengths"].min()) >= 1
            for user, history, target in zip(batch["users"], batch["histories"],
                                             batch["targets"]):
                for before, after in zip(history.tolist(), target.tolist()):
                    if after >= 0:
                        pairs.append((epoch, int(user), before, after))
            seen |= {(epoch, int(u), int(n)) for u, n in zip(batch["users"], batch["lengths"])}
    expected = []
    for u in range(20):
        own = data().train[data().train.users == u]
        own = own.items[np.argsort(own.times, kind="stable")].tolist()
        expected += [(e, u, a, b) for e in (1, 2) for a, b in itertools.pairwise(own)]
    assert sorted(pairs) == sorted(expected)
    assert {s[1:] for s in seen if s[0] == 1} != {s[1:] for s in seen if s[0] == 2}


def test_bert4rec_hides_items_and_asks_for_them() -> None:
    model = build(plugin("BERT4Rec", mask_ratio=0.4), data(), CTX)
    assert isinstance(model, TorchRecommender)
    rows = 0
    for batch in model.batches(1, 16):
        for k in range(len(batch["users"])):
            history, masked = batch["histories"][k], batch["masked"][k]
            at = [int(p) for p in batch["mask_at"][k] if p >= 0]
            truth = [int(i) for i in batch["mask_items"][k] if i >= 0]
            assert [int(history[p]) for p in at] == truth
            assert all(int(masked[p]) == 24 for p in at)
            kept = (masked != 24)
            assert torch.equal(masked[kept], history[kept])
            rows += bool(at)
    assert rows > 20


def test_recvae_teaches_its_halves_in_turn_and_leaves_both_free() -> None:
    model = build(plugin("RecVAE"), data(), CTX)
    assert isinstance(model, TorchRecommender)
    resting = [(model.module.encoder.fc1.weight.requires_grad,
                model.module.decoder.weight.requires_grad) for _ in model.batches(1, 64)]
    assert resting == [(True, False)] * 3 + [(False, True)]
    assert model.module.encoder.fc1.weight.requires_grad
    assert model.module.decoder.weight.requires_grad


@pytest.mark.parametrize("name", ["BPR", "FM", "SASRec", "CKE", "BERT4Rec", "DIEN"])
def test_real_rows_meet_the_same_batches_whatever_is_injected(name: str) -> None:
    """Negatives and masks of a real row do not depend on who else is there."""
    seen = []
    for on in (data(), poisoned()):
        model = build(plugin(name), on, CTX)
        assert isinstance(model, TorchRecommender)
        rows = {}
        for batch in model.batches(1, 1000):
            columns = [k for k in ("users", "items", "negatives", "labels", "masked",
                                   "negative_histories") if k in batch]
            for k, user in enumerate(batch["users"].tolist()):
                if user < 20:
                    row = tuple(tuple(np.atleast_1d(batch[c][k].numpy())) for c in columns)
                    rows[row] = rows.get(row, 0) + 1
        seen.append(rows)
    assert seen[0] == seen[1]
    assert seen[0]


# -- the process -----------------------------------------------------------------------------------

def test_building_and_training_leave_the_process_as_it_was(
        tmp_path: object, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["bench", "--learning_rate=7", "run"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = logging.getLogger()
    handlers, level, argv = list(root.handlers), root.level, list(sys.argv)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for name in ("SGL", "SINE", "ItemKNN", "KGCN"):
        trained(name, data())
    assert root.handlers == handlers
    assert root.level == level
    assert sys.argv == argv
    assert os.listdir(".") == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert "torch_scatter" not in sys.modules
    assert not torch.is_anomaly_enabled()  # importing SINE switches it on for the process
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["BPR", "SGL", "KGCN", "BERT4Rec", "RecVAE"])
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    first, second = trained(name, data()), trained(name, data())
    assert torch.equal(scores(first), scores(second))
    other = build(plugin(name), data(), Context(1))
    assert not torch.equal(scores(build(plugin(name), data(), CTX)), scores(other))


def test_scatter_functions_equal_a_loop() -> None:
    from bench.models._recbole_compat import scatter_mean, scatter_softmax

    src = torch.randn(9, 2, generator=CTX.torch_stream("scatter"))
    index = torch.tensor([0, 2, 2, 0, 4, 2, 4, 4, 0])
    mean, soft = scatter_mean(src, index, dim_size=6), scatter_softmax(src, index)
    assert mean.shape == (6, 2)
    for group in range(6):
        rows = src[index == group]
        expected = rows.mean(dim=0) if len(rows) else torch.zeros(2)
        torch.testing.assert_close(mean[group], expected)
        torch.testing.assert_close(soft[index == group], rows.softmax(dim=0))


def test_learning_helps() -> None:
    """BPR finds the blocks: its ranking beats that of popularity."""
    from bench.evaluate import evaluate

    on = Blocks(users=60, items=48).load()
    made = {}
    for name, given in (("BPR", {"epochs": 60, "patience": 0}), ("Pop", {})):
        model = build(plugin(name, **given), on, CTX)
        model.fit(NoDefense(), lambda event: None)
        made[name] = next(v for m, g, v in evaluate(model, on, ("ndcg@10",)).values
                          if (m, g) == ("ndcg@10", "all"))
    assert made["BPR"] > 1.3 * made["Pop"]

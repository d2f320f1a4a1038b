"""The RecBole adapter: names, parameters, ids, scores, tables and state."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from recbole_toy import CTX, data, plugin, poisoned, scores, trained

from bench.api import Dataset, Interactions
from bench.errors import BenchError, InputError, PluginError
from bench.models import recbole
from bench.models.base import TorchRecommender, build
from bench.perturb import gradient

SOME = ["BPR", "LightGCN", "NeuMF", "MultiVAE", "CDAE", "FISM", "SimpleX", "RecVAE", "SGL", "DMF",
        "ItemKNN", "EASE", "Pop", "SASRec", "GRU4Rec", "BERT4Rec", "FPMC", "SHAN", "SASRecF",
        "FM", "FFM", "DSSM", "KGAT", "CKE", "MKR", "XGBoost"]
TABLED = [n for n in SOME if {"embeddings", "gradients"} <= set(recbole.facts()[n]["gives"])]


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
    assert recbole.member("DCN").from_params({"reg_weight": 0.5}).reg_weight == 0.5  # type: ignore
    assert recbole.member("LDiffRec").__dataclass_fields__["out_dims"].type == tuple[int, ...]
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
    assert float(made.detach().std()) > 0


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


@pytest.mark.parametrize("name", ["FM", "NeuMF", "DMF", "FISM", "BPR"])
def test_scores_are_what_the_model_says_they_are(name: str) -> None:
    """Pointwise metrics cut probabilities at one half, and take the sigmoid of logits."""
    model = trained(name, data())
    kind, found = model.score_kind, scores(model)  # type: ignore[attr-defined]
    assert kind == {"FISM": "logit", "BPR": "other"}.get(name, "probability")
    inside = bool(((found >= 0) & (found <= 1)).all())
    assert inside or kind != "probability"

"""BPR-MF and AMF against the published runs of Anelli et al. (RecSys 2021) on their own split.

Their data and results are not ours to ship: the test skips where they are not, and is told by
$BENCH_SHARED_DATA where they are (default: shared/data beside the checkout).
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Defense
from bench.datasets.blocks import Blocks
from bench.datasets.table import Table
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.none import NoDefense
from bench.evaluate import Evaluation, evaluate
from bench.grid import load_grid
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.sampling import Rows

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("BENCH_SHARED_DATA", CHECKOUT.parent / "shared" / "data")) \
    / "idiosyncratic-ml100k"
GRID = CHECKOUT / "bench" / "grids" / "papers" / "idiosyncratic-ml100k.yaml"
METRICS = ["coverage@50", "recall@50", "ndcg@50", "arp@50", "aplt-all@50"]
AMF = {"eps": 1.0, "weight": 0.1, "start_epoch": 100}


def the_model(epochs: int) -> BPRMF:
    """The grid file's model, at another number of epochs."""
    model = load_grid(GRID).models[0]
    assert isinstance(model, BPRMF)
    return BPRMF.from_params({**model.params(), "epochs": epochs})


def test_the_grid_file_holds_the_seven_published_rows():
    grid = load_grid(GRID)
    assert [m.params()["epochs"] for m in grid.models] == [25, 100, 200]
    rows = {(d.params()["eps"], d.params()["weight"]) for d in grid.defenses[1:]}
    assert rows == {(0.1, 0.1), (1.0, 0.1), (1.0, 1.0), (1.0, 10.0)}
    none, dataset, attack = grid.defenses[0], grid.datasets[0], grid.attacks[0]
    for model in grid.models:
        assert not grid.excluded(dataset, model, none, attack, 0)
        for defense in grid.defenses[1:]:
            assert grid.excluded(dataset, model, defense, attack, 0) == (
                model.params()["epochs"] < 200)
    model = the_model(200)
    assert (model.optimizer, model.accumulator, model.order) == ("adagrad", 0.1, "users")
    assert (model.reduction, model.bias, model.truncated, model.dim) == ("sum", True, True, 64)


def test_epochs_by_user_hold_runs_of_users_drawn_with_replacement():
    made = Blocks(users=600, items=80, length=30).load()
    rows = Rows(made, Context(0))
    batches = list(rows.user_runs(1, 128))
    pairs = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    assert rows.is_taken(pairs["users"], pairs["items"]).all()
    assert not rows.is_taken(pairs["users"], pairs["negatives"]).any()
    count = torch.bincount(pairs["users"], minlength=600)
    assert (count % 27 == 0).all()  # all 27 train rows of a user come each time it is drawn
    assert float((count > 0).float().mean()) == pytest.approx(1 - math.exp(-1), abs=0.05)
    twice = int((count == 54).nonzero()[0])
    assert len(pairs["negatives"][pairs["users"] == twice].unique()) > 27  # drawn anew
    spread = np.mean([len(b["users"].unique()) for b in rows.pairs(1, 128)])
    assert np.mean([len(b["users"].unique()) for b in batches]) < 0.65 * spread
    assert all(torch.equal(a["items"], b["items"])
               for a, b in zip(batches, rows.user_runs(1, 128), strict=True))
    assert not torch.equal(batches[0]["users"], next(rows.user_runs(2, 128))["users"])


@pytest.fixture(scope="module")
def data() -> Dataset:
    if not (FOLDER / "published.csv").is_file():
        pytest.skip("idiosyncratic-ml100k is not in the data folder; set BENCH_SHARED_DATA")
    return Table(called="idiosyncratic-ml100k", train=str(FOLDER / "train.tsv"),
                 test=str(FOLDER / "test.tsv"), time="4").load()


def published(model: str, epoch: int, eps: float = 0.0, alpha: float = 0.0) -> dict[str, float]:
    with (FOLDER / "published.csv").open() as file:
        for row in csv.DictReader(file):
            if row["Model"] == model and float(row["LearnRate"]) == 0.05 and (
                    float(row["Epoch"]), float(row["Top-K"]), float(row["Epsilon"]),
                    float(row["Alpha"])) == (epoch, 50, eps, alpha):
                return {k: float(row[k]) for k in ("Coverage", "Recall", "nDCG", "ARP", "APLT")}
    raise AssertionError(f"no published row for {model} at epoch {epoch}")


def fitted(data: Dataset, epochs: int, defense: Defense) -> Recommender:
    model = build(the_model(epochs), data, Context(0))
    model.fit(defense, lambda event: None)
    return model


def close(found: Evaluation, expected: dict[str, float]) -> dict[str, float]:
    """Recall and nDCG within two standard errors over users, ARP and coverage within 10 %."""
    values = {metric: value for metric, group, value in found.values if group == "all"}
    for metric, column in (("recall@50", "Recall"), ("ndcg@50", "nDCG")):
        each = np.asarray(found.users[metric])
        error = each.std() / math.sqrt(len(each))
        assert abs(values[metric] - expected[column]) <= 2 * error, (metric, values, expected)
    coverage = values["coverage@50"] * 1682
    assert coverage == pytest.approx(expected["Coverage"], rel=0.1)
    assert values["arp@50"] == pytest.approx(expected["ARP"], rel=0.1)
    assert values["aplt-all@50"] == pytest.approx(expected["APLT"], abs=0.03)
    return values


@pytest.mark.slow
def test_the_data_are_as_published(data):
    assert (data.n_users, data.n_items, len(data.train), len(data.test)) == (943, 1682, 99056, 943)


@pytest.mark.slow
def test_bpr_after_25_epochs(data):
    close(evaluate(fitted(data, 25, NoDefense()), data, METRICS), published("bprmf", 25))


@pytest.mark.slow
def test_amf_after_25_adversarial_epochs_as_published_and_as_it_is(data):
    """The published lists were made with the last batch's perturbation in the tables. Without
    it the lists are more popular and less of the long tail than published."""
    model = fitted(data, 125, AdversarialTraining(**AMF))
    as_it_is = evaluate(model, data, METRICS)
    served = AdversarialTraining(**AMF, serve_perturbed=True).harden(model, data, model.ctx)
    as_published = close(evaluate(served, data, METRICS), published("amf", 125, 1.0, 0.1))
    correct = {metric: value for metric, group, value in as_it_is.values if group == "all"}
    assert correct["arp@50"] > as_published["arp@50"] * 1.03
    assert correct["aplt-all@50"] < as_published["aplt-all@50"] - 0.02

"""Makes run folders whose numbers are known: what the report is tested on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.plugin import show
from bench.results import Folder, cell_json
from bench.store import write_table

COST = {"train_seconds": 12.5, "attack_seconds": 0.5, "defense_seconds": 0.1, "queries": 0,
        "score_seconds": 0.1,
        "train_samples_per_s": 45678.0, "score_users_per_s": 9876.0, "peak_memory_mb": 512.0,
        "device": "cpu"}
EMBEDDING = {"stage": "test-param", "knowledge": "white", "goal": "untargeted",
             "realisable": False}
PROFILES = {"stage": "train-poison", "knowledge": "gray", "goal": "push", "realisable": True}
NOTHING = {"stage": "none", "knowledge": "none", "goal": "none", "realisable": True}
BALL = {"eps": 0.5, "relative": False, "norm": "l2", "tables": "both"}
ITEMS = 40
TARGETS = ["i3", "i7"]


def spec(name: str, **params: Any) -> dict[str, Any]:
    inside = ", ".join(f"{k}={show(v)}" for k, v in params.items())
    return {"name": name, "params": params, "label": f"{name}({inside})" if inside else name}


def embedding(name: str, **params: Any) -> dict[str, Any]:
    """An embedding attack: parameters that all of them have, and its own."""
    made = spec(name, **params)
    return {**made, "params": {**BALL, **params}}


class SyntheticRun:
    """A run folder under construction.

    Args:
        loss: (model, defense, attack) names -> share of accuracy lost.
        lift: (model, defense, attack) names -> what the targets' exposure gains.
    """

    def __init__(self, path: Path, *, users: int = 120, seeds: Sequence[int] = (0, 1, 2),
                 asked: Sequence[int] | None = None, seed_spread: float = 0.002,
                 loss: Callable[[str, str, str], float] = lambda m, d, a: 0.0,
                 lift: Callable[[str, str, str], float] = lambda m, d, a: 0.0,
                 groups: bool = True, base: Mapping[str, float] | None = None) -> None:
        self.path, self.users, self.seeds = path, users, tuple(seeds)
        self.asked = tuple(asked or seeds)
        self.loss, self.lift, self.spread, self.groups = loss, lift, seed_spread, groups
        self.base = {"pop": 0.1, **(base or {})}
        self.folder = Folder(path)
        self.headers: list[dict[str, Any]] = []

    def header(self, seed: int, dataset: dict[str, Any], model: dict[str, Any],
               defense: dict[str, Any], attack: dict[str, Any],
               threat: Mapping[str, Any]) -> dict[str, Any]:
        text = json.dumps([seed, dataset, model, defense, attack], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        made = {"schema": 2, "key": key, "train_key": key[::-1], "seed": seed, "dataset": dataset,
                "model": model, "defense": defense, "attack": attack,
                "threat": {**threat, "budget": f"budget of {attack['label']}"}}
        self.headers.append(made)
        return made

    def add(self, model: dict[str, Any], defense: dict[str, Any], attack: dict[str, Any],
            threat: Mapping[str, Any] = EMBEDDING, *, dataset: dict[str, Any] | None = None,
            status: str = "ok", reason: str | None = None, facts: Mapping[str, Any] | None = None,
            privacy: Mapping[str, float] | None = None,
            bad_seeds: Mapping[int, str] | None = None) -> None:
        """One row and attack, for all seeds; `bad_seeds` fail with the reason given."""
        threat = NOTHING if attack["name"] == "none" else threat
        for seed in self.asked:
            if seed not in self.seeds:
                continue
            head = self.header(seed, dataset or spec("toy"), model, defense, attack, threat)
            if seed in (bad_seeds or {}):
                self.folder.write(cell_json(head, status="failed", reason=bad_seeds[seed]))
            elif status != "ok":
                self.folder.write(cell_json(head, status=status, reason=reason))
            else:
                self._write(head, facts or {}, privacy or {})

    def _write(self, head: dict[str, Any], facts: Mapping[str, Any],
               privacy: Mapping[str, float]) -> None:
        names = head["model"]["name"], head["defense"]["name"], head["attack"]["label"]
        rng = np.random.default_rng(sum(map(ord, names[0])))
        level = self.base.get(names[0], 0.3)
        quality = np.clip(rng.beta(2, 4, self.users) * 3 * level, 0, 1)
        noise = np.random.default_rng([head["seed"], 5]).normal(0, 0.01, self.users)
        ndcg = np.clip(quality + noise + self.spread * (head["seed"] - 1), 0, 1)
        ndcg = ndcg * (1 - self.loss(*names))
        gender = np.array(["F" if u % 3 == 0 else "M" for u in range(self.users)], object)
        ndcg = np.where((gender == "F") & self.groups, 0.8 * ndcg, ndcg)
        hits = (ndcg > 0.2).astype(np.float64)
        columns = {"user": np.array([f"u{u}" for u in range(self.users)], object),
                   "ndcg@10": ndcg, "hr@10": hits}
        values = [["ndcg@10", "all", float(ndcg.mean())], ["hr@10", "all", float(hits.mean())],
                  ["coverage@10", "all", 0.5 + 0.01 * head["seed"]]]
        if self.groups:
            columns["group:gender"] = gender
            values += [["ndcg@10", f"gender={g}", float(ndcg[gender == g].mean())]
                       for g in ("F", "M")]
        if head["threat"]["goal"] in ("push", "nuke"):
            facts = {"targets": TARGETS, "n_fake": 2, **facts}
            before = np.mean([EXPOSED[int(t[1:])] for t in TARGETS])
            values += [["target-hr@50", "all", float(before + self.lift(*names)
                                                     + 0.001 * head["seed"])]]
        write_table(self.folder.users(head["key"]), columns)
        write_table(self.folder.items(head["key"]), {
            "item": np.array([f"i{i}" for i in range(ITEMS)], object),
            "popularity": np.arange(ITEMS), "eligible": np.full(ITEMS, 90),
            "exposure@50": EXPOSED.copy()})
        facts = {"users_evaluated": self.users, "users_skipped": 0, "tie_share": 0.0, **facts}
        self.folder.write(cell_json(head, status="ok", values=values, facts=facts,
                                    privacy=privacy, cost=COST))

    def finish(self, grid: str = "name: toy-run\nseeds: [0, 1, 2]\n") -> Path:
        """Write grid, plan and environment; the folder."""
        planned = [{"key": h["key"], "train_key": h["train_key"], "seed": h["seed"],
                    **{a: h[a]["label"] for a in ("dataset", "model", "defense", "attack")}}
                   for h in self.headers]
        planned += [{**c, "key": f"missing{s}", "seed": s} for s in self.asked
                    if s not in self.seeds for c in planned[:1]]
        (self.path / "grid.yaml").write_text(grid)
        (self.path / "plan.json").write_text(json.dumps({"schema": 1, "cells": planned}))
        (self.path / "environment.json").write_text(json.dumps(
            {"versions": {"torch": "2"}, "command": ["bench", "run", "grid.yaml"]}))
        return self.path


EXPOSED = np.arange(ITEMS) / 100  # item i is in the lists of i % of the users who lack it


def example(path: Path, models: Iterable[str] = ("pop", "BPR", "LightGCN")) -> Path:
    """A run with everything in it: skips, failures, defenses, profile attacks, flags."""
    losses = {"noise(eps=0.5)": 0.01, "fgsm(eps=0.5)": 0.12, "pgd(eps=0.5, steps=10)": 0.2}
    run = SyntheticRun(
        path, loss=lambda m, d, a: losses.get(a, 0.001 if "profiles" in a else 0.0)
        * (0.4 if d == "adversarial-training" else 1.0) + (0.3 if d == "dp-sgd" else 0.0)
        + (0.02 if d == "adversarial-training" else 0.0),
        lift=lambda m, d, a: 0.0 if d == "pca-filter" else 0.08 if "band" in a else 0.03)
    defenses = [spec("none"), spec("adversarial-training", eps=0.5),
                spec("dp-sgd", epsilon=8.0), spec("pca-filter")]
    attacks = [(embedding("noise", eps=0.5), EMBEDDING), (embedding("fgsm", eps=0.5), EMBEDDING),
               (embedding("pgd", eps=0.5, steps=10), EMBEDDING),
               (spec("random-profiles", budget=0.01), PROFILES),
               (spec("bandwagon-profiles", budget=0.01), PROFILES)]
    for name in models:
        for defense in defenses:
            model = spec(name, epochs=50) if name != "pop" else spec(name)
            if name == "pop" and defense["name"] in ("adversarial-training", "dp-sgd"):
                for attack, threat in [(spec("none"), NOTHING), *attacks]:
                    run.add(model, defense, attack, threat, status="skipped",
                            reason="pop exposes no embeddings and no gradients")
                continue
            spent = {"epsilon": 7.99, "delta": 1e-5} if defense["name"] == "dp-sgd" else {}
            cleaned = {"defense": {"flagged": 9}} if defense["name"] == "pca-filter" else {}
            run.add(model, defense, spec("none"), privacy=spent, facts=cleaned)
            for attack, threat in attacks:
                if name == "pop" and threat is EMBEDDING:
                    run.add(model, defense, attack, threat, status="skipped",
                            reason="pop exposes no embeddings and no gradients")
                elif name == "LightGCN" and defense["name"] == "dp-sgd":
                    run.add(model, defense, attack, threat, status="failed",
                            reason="the loss became nan in epoch 3; lower learning_rate")
                else:
                    run.add(model, defense, attack, threat, privacy=spent, facts=cleaned)
    return run.finish()

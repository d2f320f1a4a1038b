"""Contracts of malicious clients: they keep to their number, their items and the clip, they know no
more than stated, and they push."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from bench.api import Context, Dataset, Defense, ModelPlugin, ThreatModel
from bench.federated import Client, ClientAttack, Sent
from bench.models.base import Recommender, TorchRecommender, build
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab

SEEDS = (0, 1, 2)
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bprmf", {"dim": 16, "epochs": 8, "learning_rate": 0.02, "patience": 0}),
    ("NeuMF", {"mf_train": False, "mlp_embedding_size": 8, "mlp_hidden_size": [8],
               "dropout_prob": 0.0, "epochs": 8, "learning_rate": 0.02, "patience": 0}))


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    blind = cast(ThreatModel, getattr(cls, "threat", None)).knowledge == "none"
    return [clients_within_budget, uploads_within_budget, knows_no_more_than_stated,
            noise_of_full_size if blind else pushes_the_targets]


def model_plugin(lab: Lab) -> ModelPlugin:
    """A model on which these clients can act. Raises Skip where there is none."""
    reasons = []
    for name, params in MODELS:
        plugin = lab.registry.make("models", {"name": name, "params": params})
        reason = lab.plugin().unfit(plugin, lab.data())
        if reason is None:
            return cast(ModelPlugin, plugin)
        reasons.append(reason)
    raise Skip(f"it acts on no model of the tests ({'; '.join(reasons)})")


def defense(lab: Lab, **changes: Any) -> Defense:
    params = {"clients": 16, **changes}
    return cast(Defense, lab.registry.make("defenses", {"name": "federated", "params": params}))


def untrained(lab: Lab, attack: ClientAttack | None, ctx: Context,
              data: Dataset | None = None) -> TorchRecommender:
    """The model with the attack's clients registered."""
    data = data or lab.data()
    changed = data if attack is None else attack.before_training(data, ctx)
    model = build(model_plugin(lab), changed, ctx)
    assert isinstance(model, TorchRecommender)
    model.intruder = attack
    return model


def trained(lab: Lab, attack: ClientAttack | None, ctx: Context) -> Recommender:
    model = untrained(lab, attack, ctx)
    model.fit(defense(lab), lambda event: None)
    return model


def fingerprint(lab: Lab, ctx: Context) -> str:
    """What a model learns with these clients, as a hash."""
    from bench._contracts_lab import all_scores, digest

    return digest(all_scores(trained(lab, lab.plugin(), ctx)))


def clients_within_budget(lab: Lab) -> None:
    """As many malicious clients as the budget says, without a row; nothing genuine moves."""
    from bench._contracts_lab import digest

    before = lab.data()
    for budget in (0.001, 0.05, 0.4):
        plugin = lab.plugin(budget=budget)
        after = plugin.before_training(before, Context(0))
        want = max(1, round(budget * before.n_genuine))
        require(after.n_fake == want, f"{after.n_fake} malicious clients, the budget is {want}",
                "leave `before_training` to the base class")
        same = digest(before.train, before.valid, before.test) == digest(
            after.train, after.valid, after.test)
        require(same and after.item_ids == before.item_ids
                and after.user_ids[:before.n_users] == before.user_ids,
                "rows or ids change when the clients register",
                "a malicious client has no row; what it uploads is made in `upload`")


def uploads_within_budget(lab: Lab) -> None:
    """In a federated training, no upload touches more items than stated or is longer than the
    clip, and not all of them are zero."""
    for items, clip in ((None, 1.0), (2, 1e-3)):
        plugin = lab.plugin(**({} if items is None else {"items": items}))
        model = untrained(lab, plugin, Context(0))
        seen = _recorded(lab, model, plugin, clip)
        require(bool(seen), "no malicious client took part in two epochs", "let it upload")
        for sent, made in seen:
            touched = torch.zeros(model.data.n_items, dtype=torch.bool)
            for key, g in made.items():
                rows = g.double().reshape(len(g) if key in sent.items else 1, -1)
                longest = float(rows.norm(dim=1).max())
                require(longest <= clip * (1 + 1e-5), f"a row of {key} is {longest:.4g} long, the "
                        f"clip is {clip:g}", "shorten it: sent.clipped(upload)")
                if key in sent.items:
                    touched |= rows[slice(*sent.items[key])].ne(0).any(dim=1)
            require(int(touched.sum()) <= plugin.items, f"an upload touches {int(touched.sum())} "
                    f"items, the budget is {plugin.items}", "let targets count")
        require(any(bool(g.ne(0).any()) for _, made in seen for g in made.values()),
                "every upload is zero", "is the gradient detached?")


def _recorded(lab: Lab, model: TorchRecommender, plugin: ClientAttack,
              clip: float) -> list[tuple[Sent, dict[str, Any]]]:
    """What the malicious clients upload in two epochs, and what they were sent."""
    from bench.training import Loop

    seen: list[tuple[Sent, dict[str, Any]]] = []
    loop = Loop(model, defense(lab, clip=clip))
    run = loop.defense.wrap(loop)
    assert run is not None
    rounds = run.__self__  # type: ignore[attr-defined]
    took = rounds._send

    def listen(clients: list[int], made: Any) -> None:
        if clients[0] >= model.data.n_genuine:
            seen.append((rounds.sent(), {k: g[0].clone() for k, g in made.shared.items()}))
        took(clients, made)

    rounds._send = listen
    with model.ctx.seeded("train"):
        for epoch in (1, 2):
            run(epoch)
    return seen


def knows_no_more_than_stated(lab: Lab) -> None:
    """Other interactions of which it is not told change nothing of what it uploads at first."""
    plugin, ctx = lab.plugin(), Context(0)
    data = lab.data()
    told = plugin.seen(data, ctx)
    keys = set(zip(told.users.tolist(), told.items.tolist(), strict=True))
    rows = zip(data.train.users.tolist(), data.train.items.tolist(), strict=True)
    hidden = np.array([row not in keys for row in rows])
    items = np.where(hidden, (data.train.items + 7) % data.n_items, data.train.items)
    other = data.replace(train=dataclasses.replace(data.train, items=items))
    targets = plugin.pick(data, ctx)
    made = []
    for world in (data, other):
        model = untrained(lab, plugin, ctx, world)
        from bench.training import Loop

        loop = Loop(model, defense(lab))
        run = loop.defense.wrap(loop)
        assert run is not None
        sent = dataclasses.replace(run.__self__.sent(),  # type: ignore[attr-defined]
                                   known=told, number=1)
        with model.ctx.seeded("train"):
            made.append(plugin.bounded_upload(sent, Client(data.n_users), targets, ctx))
    same = made[0].keys() == made[1].keys() and all(torch.equal(made[0][k], made[1][k])
                                                    for k in made[0])
    require(same, "its first upload changes with interactions that it is not told of",
            "use sent.known and the shared parameters, nothing else")


def pushes_the_targets(lab: Lab) -> None:
    """On average over seeds, many malicious clients move the targets further towards the top than
    the same number of clients who upload noise, and not away from it."""
    gains, noise = [], []
    for seed in SEEDS:
        plugin = cast(ClientAttack, lab.plugin(budget=0.3, stratum="tail"))
        control = cast(ClientAttack, lab.registry.make("attacks", {
            "name": "random-clients", "params": {
                key: getattr(plugin, key) for key in ("budget", "items", "targets", "stratum")}}))
        gains.append(_gain(lab, plugin, Context(seed)))
        noise.append(_gain(lab, control, Context(seed)))
    gain, chance = float(np.mean(gains)), float(np.mean(noise))
    require(gain > max(0.0, chance), "with a third as many malicious clients as genuine the "
            f"targets move by {gain:+.1%} of the catalogue towards the top, by noise of that size "
            f"{chance:+.1%}", "an upload is a gradient, which the server subtracts: check its sign")


def _gain(lab: Lab, plugin: ClientAttack, ctx: Context) -> float:
    """By which share of the catalogue the targets are offered earlier than without the attack."""
    from bench._contracts_attacks import _target_rank
    from bench._contracts_lab import all_scores

    targets = plugin.pick(lab.data(), ctx)
    clean, after = (_target_rank(all_scores(trained(lab, who, ctx)), lab.data(), targets)
                    for who in (None, plugin))
    return clean - after


def noise_of_full_size(lab: Lab) -> None:
    """A control spends all that attacks of its budget may: κ items, targets among them, rows of
    the clip's length; and what it uploads follows from no parameter that it is sent."""
    plugin, ctx, clip = cast(ClientAttack, lab.plugin()), Context(0), 0.5
    model = untrained(lab, plugin, ctx)
    seen = _recorded(lab, model, plugin, clip)
    targets = plugin.pick(lab.data(), ctx)
    for sent, made in seen:
        for key, (start, stop) in sent.items.items():
            norms = made[key][start:stop].double().reshape(stop - start, -1).norm(dim=1)
            hit = norms > 0
            require(int(hit.sum()) == min(plugin.items, stop - start) and bool(hit[targets].all()),
                    f"{int(hit.sum())} rows of {key} are touched, the budget is {plugin.items} "
                    "with targets included", "touch them all: less is no fair comparison")
            short = float(norms[hit].min())
            require(short >= clip * (1 - 1e-5), f"a row of {key} is {short:.4g} long, {clip:g} is "
                    "allowed", "stretch it: less is no fair comparison")
    sent = seen[0][0]
    other = dataclasses.replace(sent, shared={k: 1.0 - w for k, w in sent.shared.items()})
    one, two = (plugin.bounded_upload(s, Client(model.data.n_users), targets, Context(0))
                for s in (sent, other))
    require(all(torch.equal(one[k], two[k]) for k in one), "its upload changes with the "
            "parameters that it is sent", "draw it at random, or declare what it knows")

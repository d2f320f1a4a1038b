"""The rounds of one federated training: its clients, its server, and what they exchange."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench._aggregation import Aggregator, Hidden, Robust, Sum, check_finite
from bench._federated_noise import Shares
from bench._federation import Layout, Local, Scorer, Uploads, Way, choose, clipped, covered
from bench.dp import UserRows
from bench.errors import CannotActError, PluginError, TrainingError
from bench.federated import Client, ClientAttack, Sent
from bench.sampling import Rows, hash_rows

if TYPE_CHECKING:
    from bench.training import Loop

_WORD = 4  # bytes of a number of 32 bits, and of a row's number


@dataclass(frozen=True)
class _Learned:
    """What the honest clients of a round have learned beside what they uploaded.

    Attributes:
        loss: sum over their rows, of which there are `rows`.
        own: see `Uploads.own`, of all of them.
        own_over, shared_over: what sums of gradients are divided by.
    """

    loss: float
    rows: int
    own: dict[str, Tensor]
    own_over: float
    shared_over: float


class Rounds:
    """Clients learn on their own rows, the server adds what they upload and steps.

    Args:
        hyper: the defense `federated`.
        loop: the training that it takes over.

    Attributes:
        number: of the last round.
    """

    def __init__(self, hyper: Any, loop: Loop) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        self.hyper, self.loop, self.model = hyper, loop, loop.model
        model, ctx = loop.model, loop.model.ctx
        if any(isinstance(m, _BatchNorm) for m in model.module.modules()):
            raise PluginError("the model normalises over batches: a client would normalise over "
                              "its own rows and learn another model")
        if hyper.learning_rate:
            for group in loop.optimizer.param_groups:
                group["lr"] = hyper.learning_rate
        self.where = Layout(model, UserRows(model, 1))
        rate: float = hyper.local_rate or loop.optimizer.param_groups[0]["lr"]
        self.local = Local(hyper.local_steps, rate)
        self.intruder, self.bad = self._intruder()
        self.shares = Shares(hyper.noise_multiplier, hyper.user_clip, hyper.honest)
        self.noise_stream = ctx.torch_stream("federated-noise")
        self._malicious_ids = {c.index for c in self.bad}
        self._asked, self._epochs = 0, 0
        self._short, self._least = 0, math.inf
        if hyper.noise_multiplier:
            loop.early_stopping = False  # clients' validation scores would be told without noise
        self.coins = ctx.number("federated-clients")
        self.aggregator = self._aggregator(ctx.stream("secure-aggregation"))
        self.way: Way | None = None
        self.number, self._kept = 0, dict[str, Any]()
        self._sums = {"clients": 0, "malicious": 0, "dropped": 0, "rows": 0, "units": 0,
                      "clipped": 0, "up": 0.0, "seconds": 0.0, "uploads": 0}
        self.facts = loop.notes["federated"] = {
            "uploaded": sorted(self.where.shared), "never_uploaded": sorted(self.where.own)}

    def _intruder(self) -> tuple[ClientAttack | None, list[Client]]:
        intruder = self.model.intruder
        if not isinstance(intruder, ClientAttack):
            return None, []
        data = self.model.data
        self._targets = intruder.pick(data.genuine(), self.model.ctx)
        self._known = intruder.seen(data, self.model.ctx)
        if len(self._known):
            self.loop.notes["attacker"] = {"interactions_seen": len(self._known),
                                           "of": len(data.genuine().train.positives())}
        self._together: dict[str, Any] = {}
        self._scorer = Scorer(self.model, self.where)
        return intruder, [Client(int(u)) for u in intruder.clients(data)]

    def _aggregator(self, rng: np.random.Generator) -> Aggregator:
        h = self.hyper
        if h.secure != "none":
            weights = dict(self.model.module.named_parameters())
            shapes = {k: weights[k].shape for k in self.where.shared}
            most = h.clients or self.model.data.n_users
            # a smaller round's shares of noise are larger
            bound = max(self.shares.bound(n, h.clip) for n in {most, self._last(most)})
            return Hidden(h.secure, shapes, bound, h.neighbours, h.threshold, rng)
        return Sum() if h.aggregation == "sum" else Robust(h.aggregation, h.assumed,
                                                           self.where.items)

    def _last(self, most: int) -> int:
        """How many clients the smallest round of an epoch in which all users are asked has."""
        return self.model.data.n_users % most or most

    # -- rounds --------------------------------------------------------------------------------

    def run_epoch(self, epoch: int) -> float:
        """As many rounds as it takes for every client to be asked once; the mean loss per row."""
        rows = UserRows(self.model, epoch)
        everybody = torch.arange(self.model.data.n_users, device=rows.count.device)
        bad = torch.tensor([c.index for c in self.bad], dtype=torch.long, device=everybody.device)
        able = everybody[(rows.count > 0) | torch.isin(everybody, bad)]
        if self.hyper.noise_multiplier:  # who is asked, and with whom, must not depend on rows
            able = everybody
        able = able[hash_rows(self.coins, able, epoch).argsort(stable=True)]
        size = self.hyper.clients or len(able)
        losses, count = 0.0, 0
        for first in range(0, len(able), size):
            loss, seen = self.round(rows, able[first:first + size], epoch)
            losses, count = losses + loss, count + seen
        self._epochs += 1
        self._report()
        if not math.isfinite(losses):
            noise = ", or clip, with which the noise grows" if self.hyper.noise_multiplier else ""
            raise TrainingError(f"the loss became {losses} in epoch {epoch}; lower learning_rate"
                                + noise)
        return losses / count if count else math.nan

    def round(self, rows: UserRows, clients: Tensor, epoch: int) -> tuple[float, int]:
        """One round with these clients; the sum of the losses of the rows used, and how many."""
        begin = time.perf_counter()
        self.number += 1
        coin = (hash_rows(self.coins ^ 0x5BD1E995, clients, self.number) >> 11).double() / 2.0**52
        stay = clients[coin >= self.hyper.dropout]
        malicious = {c.index: c for c in self.bad}
        honest = torch.tensor([u for u in stay.tolist() if u not in malicious], dtype=torch.long,
                              device=clients.device)
        bad = [malicious[u] for u in stay.tolist() if u in malicious]
        self.aggregator.begin(clients.tolist(), stay.tolist())
        self._asked = len(clients)
        honest = honest.sort().values  # rows are sorted by user
        silent, honest = honest[rows.count[honest] == 0], honest[rows.count[honest] > 0]
        learned = self._honest(rows, honest, epoch, len(stay))
        self._nothing(silent)
        if self.intruder is not None and bad:
            self._malicious(self.intruder, bad)
        total = self.aggregator.total() if len(stay) else None
        if total is not None:
            self._descend(total, learned, honest)
        if total is not None and (noisy := len(honest) + len(silent)):
            there = noisy / self.shares.needed(len(clients))
            self._least = min(self._least, there)
            self._short += there < 1
        sums = self._sums
        sums["clients"] += len(clients)
        sums["malicious"] += len(bad)
        sums["dropped"] += len(clients) - len(stay)
        sums["seconds"] += time.perf_counter() - begin
        self.loop.samples += learned.rows
        return learned.loss, learned.rows

    def _honest(self, rows: UserRows, users: Tensor, epoch: int, uploading: int) -> _Learned:
        """Let these clients, in the order of their numbers, learn and upload; `uploading` of all,
        malicious ones included, do so in this round."""
        if not len(users):
            over = float(uploading) if self.hyper.weights == "equal" and uploading else 1.0
            return _Learned(0.0, 0, {}, over, over)
        batch, counts = rows.take(users, self.number, 1 << 30)
        if self.way is None:
            self.way, self.facts["clients_computed"] = choose(self.model, self.where, batch,
                                                              counts, self.local)
        passes = [(batch, counts, True, True)]
        if self.hyper.cover:
            hiding = self._covered(batch, users)
            sizes = torch.bincount(hiding["users"], minlength=int(users.max()) + 1)[users]
            passes = [(batch, counts, False, True), (hiding, sizes, True, False)]
        loss, own = 0.0, dict[str, list[Tensor]]()
        for part, sizes, up, keeps in passes:
            place = 0
            for made in self.way(self.model, self.where, part, sizes, self.local):
                these = slice(place, place + len(made.losses))
                place += len(made.losses)
                made = self._weighed(made, sizes[these])
                if up:
                    check_finite(made.shared)
                    self._send(users[these].tolist(), made)
                if keeps:
                    loss += float(made.losses.sum())
                    for key, value in made.own.items():
                        own.setdefault(key, []).append(value)
        return _Learned(loss, int(counts.sum()), {k: torch.cat(v) for k, v in own.items()},
                        self._over(counts, uploading), self._over(sizes, uploading))

    def _nothing(self, users: Tensor) -> None:
        """Clients without a row: what they upload is noise."""
        weights = dict(self.model.module.named_parameters())
        for some in torch.split(users, 32) if len(users) else ():
            self._send(some.tolist(), Uploads(
                {k: weights[k].new_zeros((len(some), *weights[k].shape))
                 for k in self.where.shared}, {}, torch.zeros(len(some))))

    def _over(self, counts: Tensor, uploading: int) -> float:
        """What the sum over clients is divided by, who have so many rows each. A server that
        cannot tell counts every client; rows are counted as reported, by malicious clients none.
        """
        if self.hyper.weights == "equal":
            return float(uploading)
        return 1.0 if self.model.sums_loss else float(counts.sum())

    def _weighed(self, made: Uploads, counts: Tensor) -> Uploads:
        """As they enter the sum: with equal weights the gradient of a client's own mean loss, of
        models too that add theirs up."""
        if self.hyper.weights == "rows":
            return made

        def by_row(g: Tensor) -> Tensor:
            return g / counts.reshape(-1, *(1,) * (g.dim() - 1))

        return Uploads({k: by_row(g) for k, g in made.shared.items()},
                       made.own if self.local.steps > 1 else
                       {k: by_row(g) for k, g in made.own.items()}, made.losses)

    def _covered(self, batch: Mapping[str, Tensor], users: Tensor) -> dict[str, Tensor]:
        if "items" not in batch or "histories" in batch:
            raise CannotActError("cover rows stand beside rows of items, which this model does "
                                 "not learn from; set cover: 0")
        if "rows" not in self._kept:
            data = self.model.data
            every = dataclasses.replace(data.train, labels=None)  # what is rated low is no cover
            self._kept["rows"] = Rows(data.replace(train=every), self.model.ctx)
            if "ratings" in batch:
                assert data.train.ratings is not None
                total, count = (np.bincount(data.train.users, w, data.n_users)
                                for w in (data.train.ratings, None))
                self._kept["mean"] = torch.as_tensor(
                    total / np.maximum(count, 1), dtype=torch.float32, device=users.device)
        # the same items in every epoch: what changed would tell them from what stays
        drawn = self._kept["rows"].negatives(batch["users"], batch["items"], -1, self.hyper.cover)
        return covered(batch, self.hyper.cover, drawn, self._kept.get("mean"))

    def sent(self) -> Sent:
        """What a malicious client gets in this round."""
        weights = dict(self.model.module.named_parameters())
        return Sent(self.number, {k: weights[k].detach().clone() for k in self.where.shared},
                    self.where.items, self.hyper.clip, self._scorer, self._known, self._together)

    def _malicious(self, intruder: ClientAttack, bad: list[Client]) -> None:
        for own in bad:
            sent = self.sent()
            made = intruder.bounded_upload(sent, own, self._targets, self.model.ctx)
            full = {k: made.get(k, torch.zeros_like(w)) for k, w in sent.shared.items()}
            self._send([own.index], Uploads({k: g[None] for k, g in full.items()}, {},
                                            torch.zeros(1)))

    def _send(self, clients: list[int], made: Uploads) -> None:
        """Clip what these clients made, count it, and hand it to the aggregator."""
        short = {k: clipped(g, k in self.where.items, self.hyper.clip)
                 for k, g in made.shared.items()}
        if clients[0] not in self._malicious_ids:
            short = self.shares(short, self._asked, self.where.masks, self.noise_stream,
                                getattr(self.aggregator, "step", None))
        sparse = self.hyper.secure == "none"
        for key, g in made.shared.items():
            by_row = key in self.where.items
            rows = g.reshape(len(g), g.shape[1] if by_row else 1, -1)  # (K, rows, width)
            self._sums["clipped"] += int((rows.norm(dim=2) > self.hyper.clip).sum())
            rows = short[key].reshape(rows.shape)
            there = rows.ne(0).any(dim=2).sum(dim=1) if by_row else torch.ones(len(g))  # (K,)
            self._sums["units"] += int(there.sum())
            if sparse:  # rows with their numbers, or the whole table where that is shorter
                width, whole = rows.shape[2] * _WORD, rows[0].numel() * _WORD
                self._sums["up"] += float((there * (width + _WORD)).clamp_max(whole).sum())
            if by_row and key == next(iter(self.where.items)):
                self._sums["rows"] += int(there.sum())
        self._sums["uploads"] += len(clients)
        self.aggregator.add(clients, short)

    # -- the server ----------------------------------------------------------------------------

    def _descend(self, total: Mapping[str, Tensor], learned: _Learned, users: Tensor) -> None:
        """The optimiser's step on what is shared, and each client's on its own rows. Who is not
        there keeps its rows, and what its optimiser remembers: momentum must not move them."""
        weights = dict(self.model.module.named_parameters())
        for key in self.where.shared:
            weights[key].grad = (total[key] / learned.shared_over).to(weights[key]) \
                if key in total else torch.zeros_like(weights[key])
        kept = []
        for key, (start, stop) in self.where.own.items():
            if self.local.steps > 1 or not len(users):  # the client has moved it already
                weights[key].grad = None
                continue
            g = torch.zeros_like(weights[key])
            g[start + users] = learned.own[key] / learned.own_over
            weights[key].grad = g
            absent = torch.ones(stop - start, dtype=torch.bool, device=g.device)
            absent[users] = False
            kept += self._snapshot(weights[key], start, stop, absent)
        self.loop.optimizer.step()
        self.loop.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for view, absent, before in kept:
                view[absent] = before
            if self.local.steps > 1 and len(users):
                for key, (start, _) in self.where.own.items():
                    weights[key][start + users] = learned.own[key]
        self.model.forget()

    def _snapshot(self, weight: nn.Parameter, start: int, stop: int,
                  absent: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The rows of absent clients in the parameter and in the optimiser's memory of it."""
        memory = self.loop.optimizer.state.get(weight, {})
        tensors = [weight.detach(), *(v for v in memory.values()
                                      if torch.is_tensor(v) and v.shape == weight.shape)]
        return [(t[start:stop], absent, t[start:stop][absent].clone()) for t in tensors]

    # -- the report ----------------------------------------------------------------------------

    def _report(self) -> None:
        """Facts of all rounds so far. What is deterministic; the seconds of a round are in
        `seconds_per_round`, which is no fact of the run's numbers."""
        s, weights = self._sums, dict(self.model.module.named_parameters())
        uploads, rounds = max(s["uploads"], 1), max(self.number, 1)
        down = sum(weights[k].numel() for k in self.where.shared) * _WORD
        up = s["up"] / uploads if self.hyper.secure == "none" \
            else self.aggregator.facts["bytes_per_upload"]
        self.facts |= {
            "rounds": self.number, "clients_per_round": round(s["clients"] / rounds, 2),
            "malicious_per_round": round(s["malicious"] / rounds, 2), "dropped": s["dropped"],
            "bytes_down_per_client": down, "bytes_up_per_client": round(up),
            "bytes_down_per_round": round(down * s["clients"] / rounds),
            "bytes_up_per_round": round(up * s["uploads"] / rounds),
            "item_rows_per_upload": round(s["rows"] / uploads, 2),
            "clipped_share": round(s["clipped"] / max(s["units"], 1), 4)}
        self.facts |= self._promised()
        if self.hyper.secure != "none":
            self.facts |= {k: v for k, v in self.aggregator.facts.items()
                           if k != "bytes_per_upload"}

    def _promised(self) -> dict[str, Any]:
        """What the noise promises, and to whom; nothing without noise."""
        h = self.hyper
        if not h.noise_multiplier:
            return {}
        seen = ("whoever sees the sums, the server included" if h.secure != "none" else
                "everybody but the server, who sees single uploads (secure: none)")
        return {"adjacency": f"one user's whole history, or none in its place; against {seen}, if "
                             f"{h.honest:.0%} of a round's clients add their noise",
                "released": "all parameters but the users' own rows",
                "accountant": "exact Gaussian: a user is in one round of each epoch, and no "
                              "amplification by sampling is claimed",
                "noise_multiplier": h.noise_multiplier, "user_clip": h.user_clip,
                "rounds_per_user": self._epochs, "rounds_short_of_noise": self._short,
                "least_noise": round(min(self._least, 1.0), 4)}

    @property
    def seconds_per_round(self) -> float:
        """Measured, so no part of the facts, which are the same on every machine."""
        return float(self._sums["seconds"]) / max(self.number, 1)

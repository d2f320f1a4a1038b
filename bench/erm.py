"""The epochs of adversarial poisoning training: a larger model that holds the invented users."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench import influence as calculus
from bench.data import Floats, Interactions, Ints
from bench.errors import TrainingError
from bench.models.base import TorchRecommender, build
from bench.profiles import RatingModel, fake_times
from bench.training import Loop

_MISSED = 1.0  # of the gradient's norm: what s = 0 misses H·s = ∇R by; more is no solution


class ErmTraining:
    """One training. The ERM users' rows come last, so that everybody else's parameters are the
    leading part of the larger model's, and are copied back after each epoch.

    Args:
        hyper: the defense, `bench.defenses.apt.Apt`.
        loop: the training that it takes over.
    """

    def __init__(self, hyper: Any, loop: Loop) -> None:
        self.hyper, self.loop = hyper, loop
        self.known = loop.model.data.replace(n_fake=0)  # nobody says who is injected
        self.scale = RatingModel(self.known)
        self.facts: dict[str, Any] = {"rounds": 0}
        loop.notes["apt"] = self.facts
        self.stream = loop.model.ctx.stream("apt")
        self.inner = Loop(self._larger(Interactions.empty(self.known.train)), hyper)
        self._copy(loop.model, self.inner.model)

    def run_epoch(self, epoch: int) -> float:
        """New ERM users where they are due, then one pass over the union; the mean loss."""
        hyper, inner = self.hyper, self.inner
        if epoch > hyper.start_epoch and (epoch - hyper.start_epoch - 1) % hyper.every == 0:
            module, larger = inner.model.module, self._larger(self._erm_users())
            larger.module = module  # the same parameters and optimiser, other rows to learn from
            inner.model = larger
        inner.model.module.train()
        before = inner.samples
        loss = inner.run_epoch(epoch)
        self.loop.samples += inner.samples - before
        self._copy(inner.model, self.loop.model)
        self.loop.model.forget()
        return loss

    def _larger(self, rows: Interactions) -> TorchRecommender:
        """The model with room for the ERM users, on the data and these rows of theirs."""
        model = self.loop.model
        made = build(self.loop.hyper, model.data.with_fakes(rows, self.hyper.users), model.ctx)
        assert isinstance(made, TorchRecommender)
        return made

    @staticmethod
    def _copy(source: TorchRecommender, target: TorchRecommender) -> None:
        """The leading part that both have, of every parameter and buffer."""
        theirs = source.module.state_dict()
        with torch.no_grad():
            for name, mine in target.module.state_dict().items():
                both = tuple(slice(0, min(a, b)) for a, b in
                             zip(mine.shape, theirs[name].shape, strict=True))
                mine[both] = theirs[name][both]

    def influence(self) -> Floats:
        """I_i of every item, (n_items,), at the model's parameters as they are."""
        hyper, model, train = self.hyper, self.loop.model, self.known.train
        stream = model.ctx.torch_stream("apt", "influence", self.facts["rounds"])
        everything = next(iter(model.batches(0, len(train))))
        picked = torch.randperm(len(everything["users"]), generator=stream)[:hyper.rows]
        some = {k: v[picked.to(v.device)] for k, v in everything.items()}
        gradient = calculus.risk_gradient(model, everything)
        product = calculus.hessian_product(model, some)
        largest = max(calculus.largest_eigenvalue(product, gradient, stream), 1e-12)
        product = calculus.damped(product, hyper.damping * largest)
        scale = (1.05 + hyper.damping) * largest  # power iteration comes from below
        direction = calculus.lissa(product, gradient, scale, hyper.iterations)
        if not all(bool(x.isfinite().all()) for x in direction):
            raise TrainingError("apt: LiSSA does not converge, as the Hessian is far from positive "
                                "definite; raise damping, or lower iterations")
        missed = [a - b for a, b in zip(product(direction), gradient, strict=True)]
        missed_by = calculus.norm(missed) / calculus.norm(gradient)
        if not missed_by <= _MISSED:
            raise TrainingError("apt: LiSSA misses the inverse of the Hessian by "
                                f"{missed_by:.3g} of the gradient's norm ({_MISSED:g} is what "
                                "no step at all misses it by); raise damping or iterations")
        self.facts["lissa_residual"] = missed_by
        assert train.ratings is not None  # `unfit` turned such data away
        sizes = np.bincount(train.users, train.ratings**2, minlength=self.known.n_users)
        smallest = np.argsort(np.where(sizes > 0, sizes, np.inf), kind="stable")
        users = torch.as_tensor(smallest[:min(hyper.references, int((sizes > 0).sum()))],
                                device=model.ctx.device)
        unrated = torch.zeros(len(users), self.known.n_items, device=model.ctx.device)
        found = calculus.rating_influence(model, users, direction, unrated)  # (U, n_items)
        total: Floats = found.sum(dim=0).double().cpu().numpy()
        return total

    def _erm_users(self) -> Interactions:
        """The rows of new ERM users, numbered from 0."""
        hyper, n_items = self.hyper, self.known.n_items
        odds = np.full(n_items, 1 / n_items)
        if hyper.choose == "influence":
            with self.loop.model.evaluating():
                influence = self.influence()
            odds = hyper.odds(influence)
            self.facts["negative_influence"] = float((influence < 0).mean())
        self.facts["rounds"] += 1
        size = min(hyper.items or max(n_items // 4, 1), int((odds > 0).sum()))
        if not size:
            return Interactions.empty(self.known.train)
        items = np.concatenate([self._pick(odds, size) for _ in range(hyper.users)])
        noise = self.stream.standard_normal(len(items))
        ratings = self.scale.item_mean[items] + self.scale.item_sd[items] * noise
        return Interactions(
            users=np.repeat(np.arange(hyper.users), size), items=items,
            ratings=self.scale.to_scale(ratings + hyper.raise_by * self.scale.high),
            times=fake_times(self.known, np.full(hyper.users, size), self.stream))

    def _pick(self, odds: Floats, size: int) -> Ints:
        """`size` items without replacement, p ∝ odds each time (the largest of logarithms with
        Gumbel noise, as odds may differ by many powers of ten)."""
        noise = self.stream.gumbel(size=len(odds))
        with np.errstate(divide="ignore"):
            order: Ints = np.argsort(-(np.log(odds) + noise), kind="stable")
        return order[:size]

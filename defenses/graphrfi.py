"""Train on every user as much as it is believed to be genuine, and learn that belief alongside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Dataset, ModelPlugin, param
from bench.detection import OwnFakes
from bench.errors import NO_BATCH, CannotActError, PluginError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Recommender, TorchRecommender
    from bench.training import Loop


CAMPAIGNS = 5  # of own fakes: so many sets of targets and lengths


class GraphRfi(OwnFakes):
    """GraphRfi's weighting: the loss of user u counts P(genuine | u), by a neural forest.

    Minimises (1/B) Σ P(genuine | z_u) · ℓ over the terms of the model's loss, where z_u is the
    user's vector joined with u's mean loss in the epoch before (the residual), and trains the
    forest by cross-entropy on labelled users, epoch by epoch; regularisers are not weighed.
    S. Zhang, H. Yin, T. Chen, N. Q. V. Hung, Z. Huang and L. Cui, "GCN-Based User Representation
    Learning for Unifying Robust Recommendation and Fraudster Detection", SIGIR 2020.

    What differs. The paper's vectors come from a graph convolution with side information, its
    loss is the squared error of ratings, and its labels are given; here the vectors and the loss
    are the model's own (any model whose loss has a term per row), and the labels are made: fakes
    of the defender's own (see `trained_on`) are trained along as further users of a twin of the
    model, whose shared part is served without them (in a graph model they are nodes of the
    training alone); and a share `assumed` of the received users is taken for genuine, as nobody
    labels them either. P counts as a constant in the recommendation
    loss, which could otherwise be lowered by distrusting everybody; and the classification loss
    stops at the vectors, which are parameters of each user's own here and would only move apart
    for those with labels. The first epoch weighs all users 1, so that early stopping keeps none
    before the second, and a training of one epoch is turned away.

    strength 0 equals `none` bit for bit. Adaptive attack: poison made against the weighted
    training, to which it is known to fall for want of clean labels (MetaC; Lai, Zhu, Fan, Zhang
    and Zhou, arXiv 2211.11534); here any profile attack with `adaptive: true`.

    Args:
        trained_on, train_budget, assumed: its labelled users.
        strength: weight of a user is 1 − strength · P(fake).
        trees, depth: of the forest (5 and 3, as in the port in LoRec).
        steps, forest_rate: Adam steps of the forest after each epoch, and their size.

    Shapes: z (users, width + 1), P (users,).

    Example: defenses: [{graphrfi: {strength: 1.0, trained_on: bandwagon-profiles}}]
    """

    name = "graphrfi"
    strength: float = param(1.0, "how far the weight of a certain fake falls; 0: not at all",
                            low=0, high=1)
    assumed: float = param(0.25, "share of received users that are taken for genuine", above=0,
                           high=1)
    trees: int = param(5, "trees of the forest", low=1)
    depth: int = param(3, "levels of a tree", low=1, high=10)
    steps: int = param(20, "steps of the forest after each epoch", low=1)
    forest_rate: float = param(0.05, "step size of the forest", above=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.models.recbole import facts
        from bench.rowloss import termwise

        if "user" not in model.table_roles:
            return f"{model.name} has no vector per user to judge"
        tables = facts().get(model.name, {"tables": ()})["tables"]
        if any(key.startswith("user:") for key in tables):
            return f"{model.name} keeps users and attributes in one table, which cannot grow"
        if self.strength and getattr(model, "epochs", 2) < 2:
            return f"it weighs users from the second epoch on, and {model.name} has one"
        return termwise(model) or super().unfit(model, data)

    def sees_ratings(self, model: Recommender) -> bool:
        return "ratings" in getattr(getattr(model, "hyper", None), "gives", ())

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.strength:
            return None
        loop.kept_from = 2
        return _Weighted(self, loop).run_epoch

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"strength": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"train_budget": 0.3, "steps": 3}


class _Weighted:
    """The weighted epochs of one training run."""

    def __init__(self, hyper: GraphRfi, loop: Loop) -> None:
        import torch

        from bench.models.base import TorchRecommender, build
        from bench.neural_forest import NeuralForest
        from bench.training import make_optimizer

        self.hyper, self.loop, self.model = hyper, loop, loop.model
        ctx = self.model.ctx
        received = self.model.data
        grown, campaign = hyper.with_own_fakes(received, CAMPAIGNS, ctx)
        data = received.replace(
            user_ids=grown.user_ids, train=grown.train, valid=received.valid[:0],
            test=received.test[:0], n_fake=received.n_fake + int((campaign >= 0).sum()))
        twin = build(self.model.hyper, data, ctx)
        assert isinstance(twin, TorchRecommender)
        twin.share_initialisation(self.model)
        twin.forget()
        self.twin: TorchRecommender = twin
        self.optimizer = make_optimizer(twin, self.model.hyper)
        trusted = ctx.stream(hyper.name, "assumed").random(len(campaign)) < hyper.assumed
        has = np.bincount(data.train.users, minlength=data.n_users) > 0
        self.fake = torch.as_tensor(campaign >= 0, device=ctx.device)  # (users,)
        self.labelled = torch.as_tensor(has & ((campaign >= 0) | trusted), device=ctx.device)
        self.weight = torch.ones(data.n_users, device=ctx.device)
        width = self.vectors().shape[1] + 1
        self.forest = NeuralForest(width, hyper.trees, hyper.depth, ctx, hyper.name)
        self.forest_steps = torch.optim.Adam(self.forest.parameters(), lr=hyper.forest_rate)

    def run_epoch(self, epoch: int) -> float:
        """One pass over all rows, own fakes' included, then over the forest; the mean loss."""
        import torch

        from bench.rowloss import row_terms

        total = torch.zeros_like(self.weight)  # (users,), loss of each
        rows = torch.zeros_like(self.weight)  # (users,), terms of each
        losses = []
        self.twin.module.train()
        for batch in self.twin.batches(epoch, self.model.hyper.batch_size):
            self.optimizer.zero_grad(set_to_none=True)
            terms = row_terms(self.twin, batch)
            loss = terms.whole(self.weight[terms.users])
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"the loss became {losses[-1]} in epoch {epoch}; lower "
                                    "learning_rate")
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.twin.forget()
            total.index_add_(0, terms.users, terms.losses.detach())
            rows.index_add_(0, terms.users, torch.ones_like(terms.losses))
            self.loop.samples += len(batch["users"])
        if not losses:
            raise TrainingError(NO_BATCH)
        self.judge(total / rows.clamp_min(1))
        hand_over(self.twin, self.model)
        return sum(losses) / len(losses)

    def vectors(self) -> Tensor:
        """The users' vectors of all tables, side by side: (users, width)."""
        import torch

        found = [t.rows() for t in self.twin.tables().values() if t.role == "user"]
        if not found:
            raise CannotActError("graphrfi: the model has no vector per user to judge")
        return torch.cat(found, dim=1)

    def judge(self, residual: Tensor) -> None:
        """Train the forest on the labelled users, then weigh everybody: residual (users,)."""
        import torch
        from torch.nn import functional as F

        z = torch.cat([self.vectors(), residual[:, None]], dim=1)  # (users, width + 1)
        known = z[self.labelled]  # (labelled, width + 1)
        z = (z - known.mean(dim=0)) / known.std(dim=0).clamp_min(1e-8)
        x, label = z[self.labelled], self.fake[self.labelled].long()
        for _ in range(self.hyper.steps):
            self.forest_steps.zero_grad(set_to_none=True)
            F.nll_loss(self.forest(x).clamp_min(1e-8).log(), label).backward()  # type: ignore
            self.forest_steps.step()
        with torch.no_grad():
            fake = self.forest(z)[:, 1]  # (users,)
        self.weight = 1 - self.hyper.strength * fake
        self.note(fake.cpu().numpy().astype(np.float64))

    def note(self, fake: np.ndarray[Any, Any]) -> None:
        """For the report, with the truth that the training does not see: as of the last epoch."""
        from bench.detection_metrics import auc, report

        data = self.model.data
        received, own = fake[:data.n_users], self.fake.cpu().numpy()
        self.loop.notes["graphrfi"] = {
            "mean_weight": float(1 - self.hyper.strength * received.mean()),
            "own_fakes": int(own.sum()), "own_auc": auc(fake, own),
            # the forest's own decision, and where it halves what a user can lose of the weight
            "taken_for_fakes": f"P(fake) above ½, a weight below {1 - self.hyper.strength / 2:g}",
            **report(data, received > 0.5, received)}


def hand_over(twin: TorchRecommender, model: TorchRecommender) -> None:
    """Give the model what its twin with more users has learned: tables row by row, the rest where
    it has the same shape."""
    import torch

    mine, theirs = model.tables(), twin.tables()
    tables, n_users = {t.parameter for t in mine.values()}, model.data.n_users
    learned = {**dict(twin.module.named_parameters()), **dict(twin.module.named_buffers())}
    with torch.no_grad():
        for name, value in model.module.state_dict(keep_vars=True).items():
            if learned[name].shape == value.shape:
                value.copy_(learned[name])
            elif len(value) in (n_users, n_users + 1):  # by user, perhaps after a row of padding
                value.copy_(learned[name][:len(value)])
            elif name not in tables:
                raise PluginError(f"graphrfi: {name} of the model depends on the number of users "
                                  "and is no table of their vectors")
        for key, table in mine.items():
            other = theirs[key]
            table.weight[table.start:table.stop] = \
                other.weight[other.start:other.start + table.stop - table.start]
    model.forget()

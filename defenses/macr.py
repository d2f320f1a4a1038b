"""Popularity learned in a branch of its own, and taken out of the scores that are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models._bprmf import BprRecommender
    from bench.models.base import Batch, Recommender, TorchRecommender
    from bench.training import Loop


class Macr(Defense):
    """Model-agnostic counterfactual reasoning, MACR (Wei et al., KDD 2021).

    Beside the matching score y_k(u, i) = p_u · q_i, two branches learn what item and user bring
    without each other: y_i = w · q_i and y_u = v · p_u, with w and v of the vectors' length.
    Training fits σ(y_k · σ(y_i) · σ(y_u)), and each branch alone, to positives and sampled
    negatives by cross-entropy: L_O + alpha · L_I + beta · L_U. Served is the total effect less
    the natural direct effect of item and user: (y_k − c) · σ(y_i) · σ(y_u). A large σ(y_i), as
    popular items have, lifts an item where y_k exceeds the reference score c, and sinks it where
    y_k does not; σ(y_u) moves no rank.

    This replaces the model's own loss (its L2 term stays), so that it has no neutral parameters;
    c 0 serves without taking anything out, which is the ablation of the paper. The authors take
    alpha and beta .001 and c 30 to 40, searched on validation data, for long trainings. On
    ml-100k (15 epochs) alpha .001 leaves the item branch to L_O, which saturates it (correlation
    of y_i with log popularity .31, c moves nothing but up), while at .1 it learns popularity (.92):
    hence the defaults. The report gives that correlation. c is in units of y_k, whose size grows
    with training: give a list, [0, 3, 10, 30]. The authors' validation and test items are
    popularity-balanced; with a plain split, accuracy falls where exposure of the tail rises: read
    coverage, ARP and recall by item popularity. Early stopping looks at the scores that are
    served.

    For bprmf, whose score is the dot product that the branches share their vectors with. Adaptive
    attack: profiles that keep their targets' popularity branch low, random-profiles on tail
    targets; attacks on vectors climb the BPR loss of the scores that are served.

    Example: defenses: [{macr: {c: [0, 3, 10]}}]
    """

    name = "macr"
    alpha: float = param(0.1, "weight of the item branch's own loss", low=0)
    beta: float = param(0.1, "weight of the user branch's own loss", low=0)
    c: float = param(10.0, "reference score, subtracted from y_k when serving; 0: nothing taken "
                     "out", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if model.name != "bprmf":
            return (f"{self.name} shares the vectors of a dot product with its branches and is "
                    f"built for bprmf, not for {model.name}")
        return None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Adds the branches to what is learned; the epochs stay plain."""
        import torch

        from bench.models._macr import Macred
        from bench.training import make_optimizer

        model = cast("BprRecommender", loop.model)
        dim = model.hyper.dim
        with model.ctx.seeded("macr-branches"):  # as a layer of one output: Glorot and Bengio 2010
            for branch in ("item", "user"):
                drawn = torch.randn(dim) * (2 / (dim + 1)) ** 0.5
                model.module.beside[branch] = torch.nn.Parameter(drawn.to(model.ctx.device))
        loop.optimizer = make_optimizer(model, loop.hyper)
        # validation asks the model for its scores, and shall see the served ones; until `harden`
        vars(model)["scores"] = Macred(model, self.c).scores
        return None

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        from torch.nn import functional as F

        own = cast("BprRecommender", model)
        m = own.module
        p = m.users(batch["users"])  # (B, d)
        y_u = p @ m.beside["user"]  # (B,)
        losses = self.beta * (F.softplus(-y_u) + F.softplus(y_u))  # (B,)
        for key, sign in (("items", -1.0), ("negatives", 1.0)):
            q = m.items(batch[key])  # (B, d)
            y_k, y_i = (p * q).sum(dim=1), q @ m.beside["item"]  # (B,) each
            if m.bias is not None:
                y_k = y_k + m.bias[batch[key]]
            losses = losses + F.softplus(sign * y_k * y_i.sigmoid() * y_u.sigmoid()) \
                + self.alpha * F.softplus(sign * y_i)
        penalties = own.row_parts(batch)[1]
        losses = losses if penalties is None else losses + penalties
        return losses.sum() if own.sums_loss else losses.mean()

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        from bench.models._macr import Macred

        vars(model).pop("scores", None)
        return Macred(cast("BprRecommender", model), self.c)

    def unseen(self) -> None:
        return None  # see Macred.stand_in

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """How far the item branch is one of popularity: correlation of y_i with log(1 + c_i)."""
        import numpy as np

        from bench.imbalance import item_counts
        from bench.models.base import innermost

        m = cast("BprRecommender", innermost(model)).module
        y_i = (m.items.weight @ m.beside["item"]).detach().cpu().numpy()  # (n_items,)
        counts = np.log1p(item_counts(model.data))
        known = y_i.std() > 0 and counts.std() > 0
        return {"branch_correlation": float(np.corrcoef(y_i, counts)[0, 1]) if known else None}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"c": 1.0}

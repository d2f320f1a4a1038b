"""What A-ra and A-hum share: user vectors that a malicious client makes up, and its upload."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from bench.context import Context
from bench.data import Dataset, Ints
from bench.federated import Client, ClientAttack, Sent, no_dot_product
from bench.plugin import param

if TYPE_CHECKING:
    from torch import Tensor

    from bench._federation import Scorer
    from bench.api import ModelPlugin


class MadeUpUsers(ClientAttack):
    """Malicious clients make up users and upload the gradient of their liking of the targets
    (Rong et al., IJCAI 2022). Authors write `vectors`."""

    budget: float = param(0.001, "malicious clients as a share of genuine users (ρ)", above=0,
                          high=1)
    items: int = param(30, "items that one client's upload may touch, targets included (κ)", low=1)
    samples: int = param(10, "user vectors that a client makes up in a round", low=1)
    std: float = param(0.01, "standard deviation of benign user vectors, as assumed", above=0)

    @abstractmethod
    def vectors(self, sent: Sent, drawn: Tensor, targets: Tensor) -> Tensor:
        """The users of this round, from `drawn` ~ N(0, std²): (samples, width) each."""

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if no_dot_product(model) is None:
            return (f"scores of {model.name} are dot products: users drawn around 0 push an item "
                    "in no direction")
        return super().unfit(model, data)

    @final
    def upload(self, sent: Sent, own: Client, targets: Ints, ctx: Context) -> dict[str, Tensor]:
        import torch

        if "stream" not in own.memory:
            own.memory["stream"] = ctx.torch_stream(self.name, own.index)
        drawn = torch.randn(self.samples, sent.scorer.width, generator=own.memory["stream"])
        items = torch.as_tensor(targets, device=ctx.device)  # (T,)
        return liking_gradient(sent, self.vectors(sent, (self.std * drawn).to(ctx.device), items),
                               items)


def choice_loss(scorer: Scorer, shared: Mapping[str, Tensor], vectors: Tensor, items: Tensor,
                label: float) -> Tensor:
    """Binary cross-entropy of each vector (S, width) towards `label` for all items (T,): its mean
    over items, (S,)."""
    import torch
    from torch.nn import functional as F

    users = vectors.repeat_interleave(len(items), dim=0)  # (S · T, width)
    scores = scorer(shared, users, items.repeat(len(vectors)))  # (S · T,)
    wanted = torch.full_like(scores, label)
    entropy = F.binary_cross_entropy if scorer.probability else F.binary_cross_entropy_with_logits
    return entropy(scores, wanted, reduction="none").reshape(len(vectors), len(items)).mean(dim=1)


def liking_gradient(sent: Sent, vectors: Tensor, items: Tensor) -> dict[str, Tensor]:
    """The gradient, by every shared parameter, of the mean loss of the vectors (S, width) towards
    liking the items (T,); of item rows it has theirs alone, as the loss reads no other."""
    import torch

    shared = {k: w.detach().clone().requires_grad_() for k, w in sent.shared.items()}
    loss = choice_loss(sent.scorer, shared, vectors, items, 1.0).mean()
    found = torch.autograd.grad(loss, list(shared.values()), allow_unused=True)
    return sent.clipped({k: g for k, g in zip(shared, found, strict=True) if g is not None})

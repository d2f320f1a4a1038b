"""Malicious clients of federated training: the author writes what one uploads, this class keeps to
the budget and to what such a client may know."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import STRATA, Attack, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Interactions, Ints
from bench.errors import PluginError
from bench.plugin import param
from bench.profiles import fake_attributes

if TYPE_CHECKING:
    from torch import Tensor

    from bench._federation import Scorer
    from bench.api import Defense, ModelPlugin


@dataclass(frozen=True)
class Sent:
    """What the server sends to each client that takes part in a round, and the attacker's own
    means. A copy: writing into it changes nothing.

    Attributes:
        number: of the round, from 1.
        shared: parameter -> its value, as every client gets it.
        items: parameter with a row per item -> (start, stop) of those rows, by item index.
        clip: largest norm of an uploaded item row, or of another parameter as a whole.
        scorer: the score of a pair for any user vector, differentiable.
        known: the genuine interactions that the attacker sees (users, items), often none.
        together: memory that all malicious clients have in common, kept between rounds.
    """

    number: int
    shared: Mapping[str, Tensor]
    items: Mapping[str, tuple[int, int]]
    clip: float
    scorer: Scorer
    known: Interactions
    together: dict[str, Any]

    def clipped(self, upload: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The upload as the server takes it: long rows are shortened to the clip."""
        from bench._federation import clipped

        return {k: clipped(g[None], k in self.items, self.clip)[0] for k, g in upload.items()}


@dataclass(frozen=True)
class Client:
    """One malicious client: its number among all users, and memory kept between rounds."""

    index: int
    memory: dict[str, Any] = field(default_factory=dict)


class ClientAttack(Attack):
    """During federated training: malicious clients upload what they please. Authors write
    `upload`.

    Guaranteed: max(1, round(budget · genuine users)) clients, registered before training as users
    without a row, who take part in rounds as all clients do; an upload names shared parameters
    alone, touches at most `items` items, and no row of it (nor any other parameter as a whole)
    is longer than the clip that holds for honest clients. An upload beyond that fails; it is not
    cut in silence. An attacker sees what every client is sent (`Sent`), and of the genuine
    interactions the share `known`, spread evenly over users, if it has such a parameter.
    """

    budget: float = param(0.05, "malicious clients as a share of genuine users (ρ)", above=0,
                          high=1)
    items: int = param(60, "items that one client's upload may touch, targets included (κ)", low=1)
    targets: int = param(1, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    threat: ClassVar[ThreatModel] = ThreatModel("model-poison", "white", "push")

    @abstractmethod
    def upload(self, sent: Sent, own: Client, targets: Ints, ctx: Context) -> dict[str, Tensor]:
        """What this client uploads in this round: a gradient, so the server subtracts it.

        Args:
            sent: the parameters of this round, and what the attacker knows.
            own: which client it is, and its memory.
            targets: item indices to promote.
            ctx: for randomness, by name. Make a stream once and keep it in a memory.

        Returns:
            shared parameter -> tensor of its shape.
        """

    @property
    def trains(self) -> bool:
        return True

    @property
    def is_adaptive(self) -> bool:
        return True  # it acts inside the defended training, on the parameters of each round

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        reason = too_many(self.targets, self.stratum, data)
        if reason is not None:
            return reason
        if self.targets > self.items:
            return f"uploads that touch {self.items} items cannot hold {self.targets} targets"
        return no_scorer(model)

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        clip = getattr(defense, "client_clip", None)
        if clip is None:
            return (f"{self.name} acts by what clients of federated training upload; defense "
                    "`federated` trains so")
        if not np.isfinite(clip):
            return "without a clip an upload may be of any size: there is no budget to compare"
        return None

    def budget_text(self) -> str:
        return (f"{self.budget:.1%} malicious clients, at most {self.items} items each, "
                f"{self.targets} targets ({self.stratum}), rows within the server's clip"
                f"{self._sees()}")

    def comparable(self) -> str:
        return (f"push, {self.budget:.3g} malicious clients, at most {self.items} items, "
                f"{self.targets} targets ({self.stratum}){self._sees()}")

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return self.pick(data, ctx)

    def pick(self, data: Dataset, ctx: Context) -> Ints:
        """The target items of this attack on this data and seed."""
        return pick_targets(data, self.targets, self.stratum, ctx)

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with the malicious clients registered as users who have no row, and attributes
        like those of genuine users."""
        count = max(1, round(self.budget * data.n_genuine))
        return data.with_fakes(Interactions.empty(data.train), count, fake_attributes(
            data, data, count, ctx.stream("fake-attributes")))

    @final
    def clients(self, data: Dataset) -> Ints:
        """User indices of the malicious clients in the data of the training."""
        return np.arange(data.n_genuine, data.n_users, dtype=np.int64)

    @final
    def seen(self, data: Dataset, ctx: Context) -> Interactions:
        """The genuine train interactions that the attacker sees, drawn at random once:
        round(known · rows) of all rows, at least one, of each user's n as near as can be to
        known · n (rounded up or down at random). With `round_up` ⌈known · n⌉ of each."""
        from bench.natural import over_users

        rows = data.genuine().train.positives()
        share = self._share()
        if not share or not len(rows):
            return Interactions.empty(rows)
        order = over_users(rows, ctx, "known-interactions")
        if not getattr(self, "round_up", False):
            return rows[np.sort(order[:max(1, round(share * len(rows)))])]
        mixed = order[np.argsort(rows.users[order], kind="stable")]
        _, first, count = np.unique(rows.users[mixed], return_index=True, return_counts=True)
        rank = np.arange(len(mixed)) - np.repeat(first, count)
        most = np.repeat(np.ceil(share * count - 1e-9), count)
        return rows[np.sort(mixed[rank < most])]

    def _share(self) -> float:
        return float(getattr(self, "known", 0.0))

    def _sees(self) -> str:
        if not self._share():
            return ""
        rounded = ", rounded up for each user" if getattr(self, "round_up", False) else ""
        return f", sees {100 * self._share():.3g} % of the interactions{rounded}"

    @final
    def bounded_upload(self, sent: Sent, own: Client, targets: Ints,
                       ctx: Context) -> dict[str, Tensor]:
        """What the client uploads, checked against the budget."""
        import torch

        made = self.upload(sent, own, targets.copy(), ctx)
        touched = None
        for key, g in made.items():
            if key not in sent.shared:
                raise PluginError(f"{self.name}: uploads {key!r}, which is no shared parameter; "
                                  f"known: {', '.join(sorted(sent.shared))}")
            if g.shape != sent.shared[key].shape or not torch.isfinite(g).all():
                raise PluginError(f"{self.name}: the upload of {key} has shape {tuple(g.shape)}, "
                                  f"{tuple(sent.shared[key].shape)} finite numbers are needed")
            rows = g.detach().double().reshape(len(g), -1) if key in sent.items else \
                g.detach().double().reshape(1, -1)  # (rows, width)
            longest = float(rows.norm(dim=1).max())
            if longest > sent.clip * (1 + 1e-5):
                raise PluginError(f"{self.name}: a row of {key} is {longest:.6g} long, the clip "
                                  f"is {sent.clip:.6g}")
            if key in sent.items:
                hit = rows[slice(*sent.items[key])].ne(0).any(dim=1)  # (n_items,)
                if bool(rows.ne(0).any(dim=1).sum() > hit.sum()):
                    raise PluginError(f"{self.name}: touches a row of {key} that is no item's")
                touched = hit if touched is None else touched | hit
        count = 0 if touched is None else int(touched.sum())
        if count > self.items:
            raise PluginError(f"{self.name}: client {own.index} touches {count} items, the budget "
                              f"is {self.items} with targets included")
        return {k: g.detach() for k, g in made.items()}


def no_scorer(model: ModelPlugin) -> str | None:
    """Why a client cannot tell what score a user vector gives, or None: models whose score of a
    pair follows from the user's own vector and the shared parameters alone."""
    from bench.models.recbole import RecBoleModel, facts

    if model.name in ("bprmf", "fcf"):
        return None
    if isinstance(model, RecBoleModel):
        known = facts()[model.model]
        if known["family"] == "general" and known["input"] in ("pairs", "points") and \
                "user-separable" in model.gives and any("user" in t for t in known["tables"]):
            return None
    return (f"clients cannot score items of {model.name} for a user vector of their own choice: "
            "its scores are not odds of a choice, or follow from more than that vector and the "
            "shared parameters")


def no_dot_product(model: ModelPlugin) -> str | None:
    """Why the scores of this model are no dot products of user and item vectors, or None."""
    if model.name in ("bprmf", "fcf", "BPR"):
        return None
    return f"scores of {model.name} are no dot product of a user's and an item's vector"

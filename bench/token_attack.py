"""Probes of models that are asked about one candidate: the vectors of its text's tokens, moved.

The author makes a perturbation, this class picks the targets and the users that the attacker
knows, holds every token to its ball, and evaluates on users the attacker never saw.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from bench.attack import STRATA, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import CannotActError, PluginError
from bench.inside import InsideAttack, check_radius
from bench.plugin import param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared
    from bench.text.scorer import PointwiseRecommender
    from bench.text.token_target import Target


class TokenAttack(InsideAttack):
    """At test time: moves the vectors of the tokens of the target items' texts, where a prompt
    asks about them. A probe of stability: nobody can write vectors between those of words.

    One δ per target, the same in the prompts of all users; each token's part at most `eps` mean
    token norms long (L2; the mean is over the distinct tokens of the items' texts). Other tokens
    of the prompt stay, those of the same item in a history too. Authors write `delta`. eps 0 is
    the identity. A target whose text has no token is left alone.

    In the facts, `targets_without_tokens` counts those, and `margin` is over the others;
    `clean_targets` are the exposures of the same targets among the same unseen users, with the
    same offer and computed in the same way (without the kept prefix), with δ = 0; `queries`
    counts prompts whose margin the attacker read or differentiated.
    """

    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    eps: float = param(0.1, "longest move of a token's vector, in mean norms of the vectors of "
                       "the tokens of item texts", low=0)
    sample: float = param(0.4, "share of users in whose prompts δ is made; what it reaches is "
                          "measured on the others", above=0, high=0.9)
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "white", "push", False)

    @abstractmethod
    def delta(self, target: Target, item: int, radius: float, ctx: Context) -> Tensor:
        """The perturbation of one target's tokens, (tokens, width), each row at most `radius`.

        Args:
            target: `target.mean(delta)` gives the mean margin of the attacker's users and its
                slope; `target.still` is δ = 0.
            item: index of the target. radius: L2. ctx: for randomness, by name.
        """

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.text.prompted import PromptedModel
        from bench.text_attack import crowded, lonely

        if not isinstance(model, PromptedModel) or model.asks != "pointwise":
            return (f"{model.name} is no language model that is asked yes or no about one "
                    "candidate at a time")
        return (crowded(self.targets, model) or too_many(self.targets, self.stratum, data)
                or lonely(data))

    def comparable(self) -> str:
        return (f"push, tokens of {self.targets} targets ({self.stratum}) moved by at most "
                f"{self.eps:g} mean token norms")

    def budget_text(self) -> str:
        return self.comparable() + self.static_text()

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return pick_targets(data, self.targets, self.stratum, ctx)

    def crowd(self, data: Dataset, ctx: Context) -> tuple[Ints, Ints]:
        """Users in whose prompts δ is made, and those it is measured on; both sorted. They are
        the users of attacks on texts with the same `sample`."""
        from bench.text_attack import crowd

        return crowd(data, self.sample, ctx)

    def pointwise(self, model: Recommender) -> PointwiseRecommender:
        """The model inside all wrappers."""
        from bench.models.base import innermost
        from bench.text.scorer import PointwiseRecommender

        bare = innermost(model)
        if not isinstance(bare, PointwiseRecommender):
            raise CannotActError(f"{self.name} moves vectors of tokens, and the model as it is "
                                 f"served ({type(bare).__name__}) reads none")
        return bare

    def known(self, source: PointwiseRecommender, targets: Ints, seen: Ints) -> dict[int, Target]:
        """The targets by item, in the prompts of the users in `seen`: those whose text has tokens.

        Raises:
            CannotActError: none has.
        """
        from bench.text.token_target import Target

        found = {t: Target(source, t, seen) for t in targets.tolist()}
        able = {t: k for t, k in found.items() if k.span.places}
        if not able:
            named = ", ".join(source.data.item_ids[t] for t in found)
            raise CannotActError(f"{self.name} moves the tokens of texts, and what {named} is read "
                                 "as has none; take a stratum or a seed with other targets, or "
                                 "fill the texts in")
        return able

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.blind import blind
        from bench.evaluate import evaluate
        from bench.queries import uncounted
        from bench.text.token_target import mean_norm, moving
        from bench.text_attack import MEASURED
        from bench.text_shown import offering

        data, targets = prepared.genuine, self.aims(prepared.genuine, ctx)
        seen, unseen = self.crowd(data, ctx)
        measured = data.replace(asked=unseen)
        bare, source = self.pointwise(model), self.pointwise(self.made_on(model, ctx))
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as offered:
            offered.enter_context(offering(model, targets))
            known = self.known(source, targets, seen) if self.eps else {}
            still = {t: (k.span, k.still) for t, k in known.items()}
            with uncounted(model), moving(bare, still):
                model.forget()
                found = evaluate(model, measured, MEASURED, targets=targets)
            clean = {m: v for m, g, v in found.values if g == "all"}
            radius = check_radius(self, self.eps, self.eps * mean_norm(source), "tokens")
            facts = {"clean_targets": clean, "users_seen": len(seen), "radius": radius}
            if known:
                with source.evaluating(), blind(self, source):
                    moves = {t: (k.span, self.perturbation(k, t, radius, ctx))
                             for t, k in known.items()}
                    facts |= {"targets_without_tokens": len(targets) - len(known),
                          "queries": sum(k.queries for k in known.values()),
                              "tokens": float(np.mean([len(k.span.places)
                                                       for k in known.values()])),
                              "margin": {"clean": _mean([k.mean(k.still)[0] for k in
                                                         known.values()]),
                                         "attacked": _mean([k.mean(moves[t][1])[0] for t, k in
                                                            known.items()])}}
                stack.enter_context(moving(bare, moves))
            offered.close()
            model.forget()
            yield Struck(model, measured, targets, facts, offer=targets)
        model.forget()

    @final
    def perturbation(self, target: Target, item: int, radius: float, ctx: Context) -> Tensor:
        """The checked perturbation of one target: every token inside its ball.

        Raises:
            PluginError: it is not.
        """
        import torch

        made = self.delta(target, item, radius, ctx).detach()
        if made.shape != target.still.shape:
            raise PluginError(f"{self.name}: the perturbation has shape {tuple(made.shape)}, "
                              f"{tuple(target.still.shape)} was asked for")
        if not torch.isfinite(made).all():
            raise PluginError(f"{self.name}: the perturbation is not finite")
        longest = float(made.double().norm(dim=1).max()) if made.numel() else 0.0
        if longest > radius * (1 + 1e-6):
            raise PluginError(f"{self.name}: a token moves by {longest:.6g}, the budget is "
                              f"{radius:.6g}")
        return made


def _mean(values: list[float]) -> float:
    return float(np.mean(values))

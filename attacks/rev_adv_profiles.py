"""Fake users learned by gradients that flow back through the training of a surrogate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.data import Ints
from bench.errors import InputError
from bench.optimised import Candidate, OptimisedProfiles

if TYPE_CHECKING:
    from bench.unrolled import Inner


class RevAdvProfiles(OptimisedProfiles):
    """RevAdv (push): the bilevel problem of poisoning, its training unrolled.

        min over X̃ of L_adv(θ*),   θ* = argmin_θ Σ w (x − s_θ)² over the rows [X; X̃],
        L_adv = −Σ_u (1/|T|) Σ_t log softmax_t(s_u·) over genuine users

    Tang, Wen and Wang, "Revisiting Adversarially Learned Injection Attacks Against Recommender
    Systems", RecSys 2020 (Algorithm 1). Fake rows begin as copies of genuine users. Each step
    trains the surrogate from the same start for `epochs` full-batch steps of Adam, takes dL_adv/dX̃
    through the last `unroll` of them, brings each row's gradient to length 1, steps by SGD with
    momentum, and puts the rows back to 0 and 1. Of all rows met, those with the lowest L_adv on
    the surrogate are injected (the paper: highest target hit rate, which has a floor of 0).

    Three things differ from the authors' code. Targets are always in a profile. An item enters
    when the threshold says so, as there, but another one leaves for it, since here profiles have
    a length (see bench.unrolled.within). The surrogate learns from all rows at once, with a
    higher learning rate than in their mini-batches.

    Surrogates: wmf (s = P Qᵀ) and item-ae (autoencoder of item columns, to which fake rows are an
    input: with unroll 0, only that direct term is left; wmf has none).

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: train rows and no model; white: the attacked pipeline chooses among the rows
    met; black: the rows of a share of the users. Memory: some 20 · unroll · users · items bytes.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        steps: outer steps; rate, momentum: of their SGD; threshold: see above.
        surrogate, dim, weight, epochs, learning_rate, unroll: the inner problem.

    Shapes: X̃ is (fakes, items); one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{rev-adv-profiles: {budget: 0.01, unroll: [1, 10]}}]
    """

    name = "rev-adv-profiles"
    rate: float = param(1.0, "learning rate of the fake rows", above=0)
    momentum: float = param(0.95, "momentum of the fake rows", low=0)
    threshold: float = param(0.05, "how much further than a present item an absent one must have "
                             "moved to take its place", low=0, high=1)
    surrogate: str = param("wmf", "what is trained on the rows", choices=("wmf", "item-ae"))
    dim: int = param(64, "length of the surrogate's vectors; item-ae: twice that, then that",
                     low=1)
    weight: float = param(20.0, "weight of a positive in the surrogate's loss", above=0)
    epochs: int = param(50, "full-batch steps of the surrogate's training", low=1)
    learning_rate: float = param(0.05, "of the surrogate's Adam", above=0)
    l2: float = param(1e-5, "weight of ½‖·‖² of the surrogate's parameters", low=0)
    unroll: int = param(10, "through how many of the last steps gradients flow", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unroll > self.epochs:
            raise InputError(f"{self.name}: {self.unroll} steps to unroll are more than the "
                             f"{self.epochs} epochs of the surrogate", key="unroll")
        if self.surrogate == "wmf" and not self.unroll:
            raise InputError(f"{self.name}: without unrolling, the scores of wmf do not depend on "
                             "the fake rows", key="unroll", hint="take surrogate: item-ae")

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        from bench.optimised import as_profiles, templates
        from bench.surrogates import clicks
        from bench.unrolled import descend, within

        x = clicks(data)                              # (n, m)
        fake = templates(x, targets, lengths, ctx)    # (f, m)
        inner = self.inner(len(x) + len(fake), data.n_items, ctx)
        for met in descend(inner, x, fake, targets, self.steps, rate=self.rate,
                           momentum=self.momentum,
                           project=within(lengths, targets, self.threshold)):
            yield Candidate(as_profiles(met.fake, data, targets, ctx), met.loss)

    def inner(self, users: int, items: int, ctx: Context) -> Inner:
        """The surrogate and how it is trained."""
        from bench.surrogates import WMF, Adam, ItemAE
        from bench.unrolled import Inner

        kind: WMF | ItemAE = WMF(self.dim, self.weight) if self.surrogate == "wmf" else ItemAE(
            (2 * self.dim, self.dim), self.weight)
        start = kind.start(users, items, ctx.torch_stream("surrogate"))
        return Inner(kind, start, self.epochs, Adam(self.learning_rate, self.l2), self.unroll)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 4, "dim": 8, "epochs": 15, "unroll": 4, "learning_rate": 0.1}

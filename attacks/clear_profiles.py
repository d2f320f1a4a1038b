"""Fake users read from a graph model whose item vectors have been dispersed for the targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.data import Ints
from bench.optimised import Candidate, OptimisedProfiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.graph_surrogate import Graph, LightGCN


class ClearProfiles(OptimisedProfiles):
    """CLeaR (push): bi-level against graph and contrastive recommenders, by spectral dispersal.

        L = mean_u,t (s_ui − s_ut) + β mean_h ‖h − SFA(h)‖₁,   SFA(H) = H − H r rᵀ / ‖r‖²

    Wang et al., "Unveiling Vulnerabilities of Contrastive Recommender Systems to Poisoning
    Attacks", KDD 2024. The smooth spectrum that contrastive losses give lets a target reach
    everybody; so the attacker smooths it. In each of `steps` rounds: (i) a copy of the surrogate
    takes `outer` steps down L, where i is from the tail of u's list of `cutoff` items (another one
    for each target), H all user and item vectors h and r one step of power iteration on HᵀH, which
    is held still, so that the second term flattens the top singular direction; (ii) the copy's
    scores of the fake users, largest first and targets in any case, are the new fake rows; (iii)
    the surrogate is fine-tuned with them for `inner` steps at a tenth of its learning rate. Of all
    rounds, those rows are injected with which most targets stand in lists of `cutoff` items (of
    equals, the better mean rank), as a surrogate says that was trained anew with them: a little
    fine-tuning would not tell what rows do to a model.

    The surrogate is a LightGCN of its own with BPR (bench.graph_surrogate); the authors take the
    trained victim and choose by its hit rate, which is white-box. Fake rows begin as copies of
    genuine users.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: train rows and a graph model of its own; white: the attacked pipeline chooses
    among the rounds; black: the rows of a share of the users.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        steps, outer, inner: rounds, and steps in each. dispersal: β. cutoff: length of the lists.
        dim, layers, epochs, learning_rate: of the surrogate.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{clear-profiles: {budget: 0.01, dispersal: [0.0, 1.0]}}]
    """

    name = "clear-profiles"
    steps: int = param(5, "rounds; 0: the profiles it begins with", low=0)
    outer: int = param(2, "steps of the copy in each round", low=1)
    inner: int = param(6, "steps of fine-tuning in each round", low=0)
    dispersal: float = param(1.0, "weight of the term that flattens the spectrum", low=0)
    cutoff: int = param(50, "length of the lists whose tail the targets are to beat", low=1)
    dim: int = param(64, "length of the surrogate's vectors", low=2)
    layers: int = param(2, "rounds of propagation in the surrogate", low=0)
    epochs: int = param(100, "full-batch steps of the surrogate's first training", low=1)
    learning_rate: float = param(0.05, "of the surrogate, and of the copy", above=0)

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        import torch

        from bench.graph_surrogate import Graph
        from bench.optimised import as_profiles, templates
        from bench.surrogates import clicks, top

        x, aim = clicks(data), torch.from_numpy(targets)              # (n, m)
        n = len(x)
        fake = templates(x, targets, lengths, ctx)                    # (f, m)
        negatives, spectrum = ctx.torch_stream("fine-tuning"), ctx.torch_stream("spectrum")
        graph = Graph(torch.cat([x, fake]))
        model = self.surrogate(graph, ctx)
        for step in range(self.steps + 1):
            judge = self.surrogate(graph, ctx) if step else model
            yield Candidate(as_profiles(fake, data, targets, ctx),
                            self.judged(judge, graph, x, targets))
            if step == self.steps:
                return
            copy = self.dispersed(model, graph, x, aim, spectrum)
            with torch.no_grad():
                p, q = copy.vectors(graph)
                wish = p[n:] @ q.T                                    # (f, m)
            wish[:, aim] = torch.inf
            fake = top(wish, lengths)
            graph = Graph(torch.cat([x, fake]))
            model.train(graph, self.inner, self.learning_rate / 10, negatives)

    def surrogate(self, graph: Graph, ctx: Context) -> LightGCN:
        """The graph model trained on this graph; from the same start whatever the graph is."""
        from bench.graph_surrogate import LightGCN

        n, m = graph.forth.shape
        model = LightGCN(n, m, self.dim, self.layers, ctx.torch_stream("surrogate"))
        model.train(graph, self.epochs, self.learning_rate, ctx.torch_stream("negatives"))
        return model

    def judged(self, model: LightGCN, graph: Graph, x: Tensor, targets: Ints) -> float:
        """How badly the targets stand: minus their hit rate, and less than one hit for the rank."""
        import torch

        from bench.graph_surrogate import above
        from bench.surrogates import target_hits

        with torch.no_grad():
            p, q = model.vectors(graph)
            scores = p[:len(x)] @ q.T                                 # (n, m)
        rank = above(scores, x, torch.from_numpy(targets))
        return rank / (len(x) * len(targets)) - target_hits(scores, x, targets, self.cutoff)

    def dispersed(self, model: LightGCN, graph: Graph, x: Tensor, aim: Tensor,
                  rng: torch.Generator) -> LightGCN:
        """A copy of the model after the steps of (i)."""
        import torch

        copy = model.copy()
        optimizer = torch.optim.Adam(copy.parameters(), lr=self.learning_rate)
        for _ in range(self.outer):
            p, q = copy.vectors(graph)
            loss = self.harm(p, q, x, aim, rng)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return copy

    def harm(self, p: Tensor, q: Tensor, x: Tensor, aim: Tensor, rng: torch.Generator) -> Tensor:
        """L of the propagated vectors: a scalar."""
        import torch

        from bench.graph_surrogate import flattened

        scores = p[:len(x)] @ q.T                                     # (n, m)
        offered = scores.detach().masked_fill(x > 0, -torch.inf)
        k = min(self.cutoff, x.shape[1])
        listed = offered.topk(k, dim=1).indices                       # (n, k)
        held = (x == 0).sum(dim=1, keepdim=True).clamp(1, k)          # (n, 1), who has few left
        tail = (held - 1 - torch.arange(len(aim))).clamp_min(0)       # one place for each target
        others = scores.gather(1, listed.gather(1, tail))             # (n, |T|)
        h = torch.cat([p, q])                                         # (n + f + m, d)
        loss = (others - scores[:, aim]).mean()
        return loss + self.dispersal * (h - flattened(h, rng)).abs().sum(dim=1).mean()

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 4, "dim": 8, "epochs": 40, "cutoff": 10}

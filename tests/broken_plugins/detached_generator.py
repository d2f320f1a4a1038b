"""Trains a generator whose output is detached before the loss: it never learns."""

from bench.api import Context, Dataset
from bench.optimised import Candidate, OptimisedProfiles, as_profiles

BREAKS = "learning-reaches-the-profiles"
BECAUSE = "nothing that it learns reaches the profiles"


class DetachedGenerator(OptimisedProfiles):
    """Trains a generator whose output is detached before the loss; no paper.

    Example: attacks: [detached-generator]
    """

    name = "detached-generator"

    def candidates(self, data: Dataset, targets, lengths, ctx: Context):
        import torch

        from bench.surrogates import top

        rng = ctx.torch_stream("generator")
        weight = torch.rand(len(lengths), data.n_items, generator=rng).requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.5)
        for step in range(self.steps + 1):
            wish = weight.detach().clone()
            wish[:, torch.from_numpy(targets)] = 9.0
            fake = top(wish, lengths)
            yield Candidate(as_profiles(fake, data, targets, ctx), 1.0 / (step + 1))
            optimizer.zero_grad()
            loss = -(weight.detach() * 2).sum() + 0 * weight.sum()  # the generator is cut off
            loss.backward()
            optimizer.step()

    @classmethod
    def test_params(cls):
        return {"steps": 3}

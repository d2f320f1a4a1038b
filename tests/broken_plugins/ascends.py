"""Steps up the target loss instead of down."""

from bench.api import Context, Dataset
from bench.optimised import Candidate, OptimisedProfiles, as_profiles

BREAKS = "target-loss-falls"
BECAUSE = "the target loss goes from"


class Ascends(OptimisedProfiles):
    """Steps up the target loss instead of down, and injects the last; no paper.

    Example: attacks: [ascends]
    """

    name = "ascends"
    takes = "last"

    def candidates(self, data: Dataset, targets, lengths, ctx: Context):
        from bench.optimised import templates
        from bench.surrogates import WMF, Adam, clicks
        from bench.unrolled import Inner, descend, within

        x = clicks(data)
        fake = templates(x, targets, lengths, ctx)
        kind = WMF(8)
        start = kind.start(len(x) + len(fake), data.n_items, ctx.torch_stream("surrogate"))
        inner = Inner(kind, start, 15, Adam(0.1), 4)
        for met in descend(inner, x, fake, targets, self.steps, rate=-1.0, momentum=0.9,
                           project=within(lengths, targets, 0.05)):
            yield Candidate(as_profiles(met.fake, data, targets, ctx), met.loss)

    @classmethod
    def test_params(cls):
        return {"steps": 4}

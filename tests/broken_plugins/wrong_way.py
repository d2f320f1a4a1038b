"""Steps along the slope the wrong way."""

from bench.attacks.substitution import Substitution

BREAKS = "gains-more-than-chance"
BECAUSE = "in log probability, random edits"


class WrongWay(Substitution):
    """A substitution attack that helps whom it should harm; no paper.

    Example: attacks: [wrong-way]
    """

    name = "wrong-way"

    def edit(self, model, histories, targets, data, ctx):
        from bench import positions

        class Turned(positions.Reader):
            def _gain(self, users, scores):
                return -super()._gain(users, scores)

        kept, positions.Reader = positions.Reader, Turned
        try:
            return super().edit(model, histories, targets, data, ctx)
        finally:
            positions.Reader = kept

"""An attack on privacy that reports nothing."""

from bench.inference import PrivacyAttack

BREAKS = "reports-what-it-measured"
BECAUSE = "it measures nothing"


class MeasuresNothing(PrivacyAttack):
    """Returns no numbers; no paper.

    Example: attacks: [measures-nothing]
    """

    name = "measures-nothing"

    def infer(self, model, prepared, ctx):
        return {}, {}

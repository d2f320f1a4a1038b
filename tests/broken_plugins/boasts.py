"""Says that it was trained against fgsm where its weight is 0."""

from bench.adversarial import AdversarialDefense

BREAKS = "neutral-is-none"
BECAUSE = "says that it was trained against fgsm"


class Boasts(AdversarialDefense):
    """adversarial-training that was always trained; no paper.

    Example: defenses: [boasts]
    """

    name = "boasts"

    def trained_against(self):
        return "fgsm"

"""Uploads the step that it wants where a gradient is asked for."""

from bench.attacks.fed_rec_attack import FedRecAttack

BREAKS = "pushes-the-targets"
BECAUSE = "towards the top"


class UphillClient(FedRecAttack):
    """FedRecAttack with the sign of its uploads turned; no paper.

    Example: attacks: [uphill-client]
    """

    name = "uphill-client"

    def upload(self, sent, own, targets, ctx):
        return {k: -g for k, g in super().upload(sent, own, targets, ctx).items()}

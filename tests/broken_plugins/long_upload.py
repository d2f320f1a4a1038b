"""Uploads rows longer than the clip that holds for everybody."""

from bench.attacks.fed_rec_attack import FedRecAttack

BREAKS = "uploads-within-budget"
BECAUSE = "the clip is"


class LongUpload(FedRecAttack):
    """FedRecAttack with uploads ten times as long; no paper.

    Example: attacks: [long-upload]
    """

    name = "long-upload"

    def upload(self, sent, own, targets, ctx):
        return {k: 10 * sent.clip * g / g.norm(dim=1).max()
                for k, g in super().upload(sent, own, targets, ctx).items()}

"""Says that a row is a user's whole history, and its rows are of single items."""

from bench.models.bprmf import BPRMF

BREAKS = "gives-gradients"
BECAUSE = "whole_histories is True"


class ClaimsHistories(BPRMF):
    """bprmf that turns away defenses it could have; no paper.

    Example: models: [claims-histories]
    """

    name = "claims-histories"

    @property
    def whole_histories(self):
        return True

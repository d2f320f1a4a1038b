"""Malicious clients who make up users at random and upload their liking of the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.made_up_users import MadeUpUsers

if TYPE_CHECKING:
    from torch import Tensor

    from bench.federated import Sent


class ARandom(MadeUpUsers):
    """A-ra: model poisoning with random approximation (Rong et al., "Poisoning deep learning based
    recommender model in federated learning scenarios", IJCAI 2022).

    The attacker knows no interaction, and takes benign user vectors to be N(0, std²). In each
    round a malicious client draws `samples` of them, p̂_s, and uploads the gradient of
    mean_s BCE(score(p̂_s, t), 1), mean over targets t, by every shared parameter: the targets' item
    rows and the layers that make a score of vectors. Rows longer than the server's clip are
    shortened. It needs such layers (NeuMF): where a score is the dot product of two vectors, its
    gradient by an item is a multiple of p̂_s, whose mean is 0, so those models are refused.

    Budget: malicious clients (share of genuine users) and the norm of an upload, which touches the
    targets alone. Published: budget 0.001, one target, the least popular item, vectors of 8.

    Example: attacks: [{a-ra: {budget: 0.01}}]
    """

    name = "a-ra"

    def vectors(self, sent: Sent, drawn: Tensor, targets: Tensor) -> Tensor:
        return drawn

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"budget": 0.1, "samples": 4}

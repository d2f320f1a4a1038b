"""Writes into the model's own vectors."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "inputs-unchanged"
BECAUSE = "it changes what it was given: the trained model"


class ChangesModel(EmbeddingAttack):
    """Writes into the model's own vectors; no paper.

    Example: attacks: [changes-model]
    """

    name = "changes-model"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        with torch.no_grad():
            model.tables()["user"].weight.add_(0.01)
        return {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}

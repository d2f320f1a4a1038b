"""Keeps the test items while it is asked for its radii, and demotes them afterwards."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "depends-on-no-test-row"
BECAUSE = "test rows its perturbation of the same model is another"
KEPT = {}


class KeepsTestRows(EmbeddingAttack):
    """Pushes the vectors of popular test items to zero, and does not say so; no paper.

    Example: attacks: [keeps-test-rows]
    """

    name = "keeps-test-rows"

    def radii(self, model):
        KEPT[self.name] = model.data.test.items
        return super().radii(model)

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import numpy as np
        import torch

        from bench.perturb import project

        popular = np.bincount(KEPT[self.name], minlength=data.n_items) > 2
        made = {}
        for key, radius in radii.items():
            rows = model.tables()[key].rows()
            made[key] = torch.zeros_like(rows)
            if len(rows) == data.n_items:
                chosen = torch.from_numpy(popular)
                made[key][chosen] = project(-rows[chosen], radius, self.norm)
        return made

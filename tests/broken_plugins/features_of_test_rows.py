"""Aims feature vectors at the test items, kept while it is asked for its radius."""

from bench.api import Context, Dataset, FeatureAttack

BREAKS = "depends-on-no-test-row"
BECAUSE = "test rows its perturbation of the same model is another"
KEPT = {}


class FeaturesOfTestRows(FeatureAttack):
    """Moves targets towards the mean vector of the test positives, and does not say so; no paper.

    Example: attacks: [features-of-test-rows]
    """

    name = "features-of-test-rows"

    def radius(self, model):
        KEPT[self.name] = model.data.test.items
        return super().radius(model)

    def delta(self, model, table, targets, radius, data: Dataset, ctx: Context):
        import torch

        from bench.perturb import steepest

        rows = table.rows()
        kept = rows[torch.from_numpy(KEPT[self.name])]
        mean = kept.sum(dim=0) / max(len(kept), 1)
        return steepest(mean - rows[torch.from_numpy(targets)], radius * 0.99, self.norm)

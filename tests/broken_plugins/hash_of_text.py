"""Uses hash() of a text, which every process salts anew."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "spawned-worker"
BECAUSE = "another process gives another output"


class HashOfText(EmbeddingAttack):
    """Uses hash() of a text, which every process salts anew; no paper.

    Example: attacks: [hash-of-text]
    """

    name = "hash-of-text"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        stream = torch.Generator().manual_seed(hash("fgsm"))
        return {k: r * torch.rand(model.tables()[k].rows().shape, generator=stream) / 100
                for k, r in radii.items()}

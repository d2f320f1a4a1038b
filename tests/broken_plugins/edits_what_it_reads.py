"""An attack on privacy that changes the model it reads."""

import torch

from bench.api import Context
from bench.inference import Candidates, InteractionMembership

BREAKS = "leaves-the-model-alone"
BECAUSE = "changes the model"


class EditsWhatItReads(InteractionMembership):
    """Halves the model's weights before it looks; no paper.

    Example: attacks: [edits-what-it-reads]
    """

    name = "edits-what-it-reads"

    def judge(self, model, candidates: Candidates, ctx: Context):
        from bench.serving import all_scores

        with torch.no_grad():
            for p in getattr(model, "module", torch.nn.Module()).parameters():
                p.mul_(0.5)
        return all_scores(model, candidates.users)[range(len(candidates.users)), candidates.items]

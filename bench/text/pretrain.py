"""Parameters of models whose encoder learns from unlabelled item texts before anything else."""

from __future__ import annotations

from bench.api import param
from bench.text.prompted import LanguageModel

KINDS = ("none", "mlm", "contrastive-dropout", "contrastive-pairs")


class Pretrained(LanguageModel):
    """Base of models with an encoder that may be pre-trained further on the items' texts.

    mlm: masked language modelling, 15 % of the tokens, of which 80 % become the mask, 10 %
    another token, 10 % stay (Devlin et al. 2019; continued on the texts of the task: Gururangan
    et al., ACL 2020). A causal model learns the next token instead, and the result's notes say
    so. A checkpoint without a masked-LM head gets a random one.
    contrastive-dropout: a text and itself under another dropout are a pair, the other texts of
    the batch are negatives (SimCSE, Gao et al., EMNLP 2021).
    contrastive-pairs: an item and another item of the train rows of one of its users are a pair.
    """

    pretrain: str = param("none", "what the encoder learns from the items' texts first",
                          choices=KINDS)
    pretrain_epochs: int = param(1, "passes over the items' texts; 0: none", low=0)
    pretrain_rate: float = param(5e-5, "step size of AdamW", above=0)
    pretrain_batch: int = param(64, "texts, or pairs of them, per step", low=2)
    pretrain_temperature: float = param(0.05, "τ of the contrastive losses", above=0)

    @property
    def pretrains(self) -> bool:
        """Whether the encoder changes at all."""
        return self.pretrain != "none" and self.pretrain_epochs > 0

    @property
    def reads_pairs(self) -> bool:
        """Whether who took what enters the encoder, outside of the training that a defense
        sees: privacy of users that a defense brings to that training would not hold."""
        return self.pretrains and self.pretrain == "contrastive-pairs"

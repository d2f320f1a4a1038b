"""Parameters of sequence models over frozen vectors of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text.pretrain import Pretrained
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.text.sequential import SequenceRecommender


class TextSequenceModel(Pretrained, TrainedModel):
    """Base of `text-sasrec` and `unisrec`: what the transformer reads, and of which size it is.

    A history is read by the vectors of its items' texts; the next item is predicted at every
    place, by cross-entropy over all items, those without train rows included.
    """

    pool: str = param("mean", "how hidden states become a vector",
                      choices=("mean", "first", "last"))
    features: str = param("", "further vectors of items, put beside those of the texts: name of "
                          "item features of the dataset, or attributes; empty: none")
    dim: int = param(64, "length of item vectors and hidden states", low=1)
    layers: int = param(2, "layers of the transformer", low=1)
    heads: int = param(2, "heads of its attention", low=1)
    inner: int = param(256, "width between its two linear maps", low=1)
    dropout: float = param(0.5, "dropout of hidden states", low=0, high=0.99)
    attention_dropout: float = param(0.5, "dropout of attention weights", low=0, high=0.99)
    max_length: int = param(50, "newest items of a history that are read", low=1)
    rows: str = param("windows", "what a row is: windows, a stretch of max_length items in which "
                      "every next item is predicted at once; prefixes, each history up to each "
                      "item", choices=("windows", "prefixes"))
    batch_size: int = param(64, "rows per step", low=1)
    experts: ClassVar[int] = 0
    expert_dropout: ClassVar[float] = 0.0
    with_ids: ClassVar[bool] = False
    cosine_temperature: ClassVar[float] = 0.0  # 0: scores are dot products
    not_separable: ClassVar[str] = ("with pretrain: contrastive-pairs, pairs of items that users "
                                    "took enter the encoder before the training that is private")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise InputError(f"{self.heads} heads do not share {self.dim} dimensions evenly",
                             key="heads", hint="take a divisor of dim")

    @property
    def gives(self) -> frozenset[str]:
        given = {"text", "histories", "gradients", "features"}
        if self.with_ids:
            given.add("embeddings")
        if not self.reads_pairs:
            given.add("user-separable")
        return frozenset(given)

    def unfit(self, data: Dataset) -> str | None:
        from bench.item_features import available

        reason = super().unfit(data)
        if reason is not None:
            return reason
        if not data.has_times:
            return "it needs times, to know in which order a user took items, and the dataset " \
                   "has none"
        known = available(data)
        if self.features and self.features not in known:
            return (f"{data.name} has no item features {self.features!r}; "
                    + (f"it has {', '.join(known)}" if known else "it has none at all"))
        return None

    def build(self, data: Dataset, ctx: Context) -> SequenceRecommender:
        from bench.text.sequential import SequenceRecommender

        return SequenceRecommender(self, data, ctx)

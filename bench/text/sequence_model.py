"""Parameters of sequence models over vectors of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text.pretrain import Pretrained
from bench.text.tuning import WAYS, WHAT, Ways
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.text.sequential import SequenceRecommender


class TextSequenceModel(Pretrained, Ways, TrainedModel):
    """Base of `text-sasrec` and `unisrec`: what the transformer reads, and of which size it is.

    A history is read by the vectors of its items' texts; the next item is predicted at every
    place, by cross-entropy over all items, those without train rows included.

    With `tune` the encoder learns from that loss too, at `encoder_rate`. The texts of the items
    that a batch holds, in histories and as targets, are encoded with it; the vectors of all
    others are those of the beginning of the epoch, and constants (`encode: all` has no such
    others, and costs the whole catalogue at each step). For scoring all are encoded again.
    """

    tune: str = param("none", WHAT + " (the encoder is frozen)", choices=WAYS)
    encoder_rate: float = param(1e-4, "tune: step size of what is learned in the encoder", above=0)
    encode: str = param("touched", "tune: whose texts pass the encoder at each step: touched, "
                        "those of the batch's items, or all", choices=("touched", "all"))
    encode_at_once: int = param(256, "tune: texts that the encoder reads together; with more the "
                                "passes are made twice, which bounds memory", low=1)

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

    @property
    def not_separable(self) -> str:
        """Why one user's influence on what is learned is not bounded by that user's gradient."""
        if self.tune != "none":
            return "gradients of a tuned encoder are not taken user by user here"
        return ("with pretrain: contrastive-pairs, pairs of items that users took enter the "
                "encoder before the training that is private")

    def not_private(self) -> str | None:
        return "its encoder is frozen, and dp-sgd is for what is learned beside it" \
            if self.tune == "none" else self.not_separable

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
        if not self.reads_pairs and self.tune == "none":
            given.add("user-separable")
        return frozenset(given)

    @property
    def table_roles(self) -> frozenset[str]:
        return frozenset({"item"} if self.with_ids else ())

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
        if self.tune != "none":
            from bench.text.tuned_sequences import TunedSequenceRecommender

            return TunedSequenceRecommender(self, data, ctx)
        from bench.text.sequential import SequenceRecommender

        return SequenceRecommender(self, data, ctx)

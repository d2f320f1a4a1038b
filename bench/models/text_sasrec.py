"""SASRec over projected text vectors, without item IDs."""

from __future__ import annotations

from bench.text.sequence_model import TextSequenceModel


class TextSASRec(TextSequenceModel):
    """One linear map from frozen text vectors into a causal transformer; items have no IDs.

    An item is W f + c with f the pooled hidden states of an encoder read on its text, in the
    history and as a candidate; the transformer is that of SASRec (Kang and McAuley, ICDM 2018),
    in the form in which UniSRec's authors compare with it (Hou et al., KDD 2022). Scores are dot
    products; an item nobody took has one by its text. With `tune` the encoder learns from the
    sequences too: each step encodes the texts of its batch's items; the vectors of the others in
    the softmax are those of the epoch's beginning, as constants (`encode: all` has no others).

    Example: models: [{text-sasrec: {model: tiny-random, epochs: 20, tune: lora}}]
    """

    name = "text-sasrec"

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "dtype": "float32", "dim": 32, "inner": 64, "layers": 1,
                "dropout": 0.1, "attention_dropout": 0.1, "max_length": 8, "epochs": 12,
                "batch_size": 16, "learning_rate": 0.01, "patience": 0}

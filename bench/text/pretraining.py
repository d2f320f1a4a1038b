"""An encoder learns from unlabelled item texts: masked tokens, or pairs that belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import InputError, TrainingError
from bench.text.encode import Encoder, hidden_states, pool, rows_of
from bench.text.language import Language, load
from bench.text.objectives import IGNORED, Partners, info_nce, masked, next_tokens

if TYPE_CHECKING:
    from bench.api import Context, Dataset
    from bench.text.pretrain import Pretrained
    from bench.training import Progress

PREFIX = "language."
_NO_BATCH = {
    "mlm": "no token of any text was drawn; fill texts in, or pretrain: none",
    "contrastive-dropout": "it tells texts apart, and all items have the same; fill texts in, or "
                           "pretrain: none",
    "contrastive-pairs": "a pair is two items with other texts in the train rows of one user, and "
                         "there are not two pairs; take users with more rows (k_core: 5), hold "
                         "fewer rows out (split), or another pretrain (mlm, contrastive-dropout, "
                         "none)"}



# -- learning ------------------------------------------------------------------------------------

def pretrain(encoder: Encoder, hyper: Pretrained, data: Dataset, texts: Sequence[str],
             ctx: Context, progress: Progress) -> dict[str, Any]:
    """Let the encoder learn from the texts; facts for the notes of a training.

    Raises:
        InputError: this language model cannot learn so. TrainingError: the loss is not finite.
    """
    if not hyper.pretrains:
        return {}
    language = encoder.language
    dtype = next(language.module.parameters()).dtype
    language.module.float()  # steps of 5e-5 are lost in half precision
    with ctx.seeded("pretrain"):
        if hyper.pretrain == "mlm":
            facts = _by_tokens(language, hyper, data, texts, ctx, progress)
        else:
            facts = _by_pairs(encoder, hyper, data, texts, ctx, progress)
    language.module.to(dtype)
    encoder.relearned()
    return {"pretrain": {"kind": hyper.pretrain, **facts}}


def _by_tokens(language: Language, hyper: Pretrained, data: Dataset, texts: Sequence[str],
               ctx: Context, progress: Progress) -> dict[str, Any]:
    head = _head(language, hyper, data, ctx)
    base: nn.Module = head.module.base_model  # type: ignore[assignment]
    inner = language.module.state_dict()
    _copied(base, inner, language.name)
    rows = rows_of(head, list(dict.fromkeys(texts)))
    stream = ctx.torch_stream("pretrain", "masks")

    def losses(epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(len(rows), generator=stream).tolist()
        for start in range(0, len(order), hyper.pretrain_batch):
            ids, mask = head.batch([rows[n] for n in order[start:start + hyper.pretrain_batch]])
            read, wanted = masked(head, ids, mask, stream) if head.role == "masked" else \
                (ids, next_tokens(ids, mask))
            if bool((wanted != IGNORED).any()):
                logits = head.module(input_ids=read, attention_mask=mask).logits  # (B, L, words)
                yield F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(),
                                      ignore_index=IGNORED)

    found = _descend(head.module, hyper, losses, progress)
    kept = base.state_dict()
    language.module.load_state_dict({k: kept.get(k, v) for k, v in inner.items()})
    learned = "masked tokens" if head.role == "masked" else \
        "the next token, as the model is causal and fills no gaps"
    return {"learned": learned, "losses": found}


def _head(language: Language, hyper: Pretrained, data: Dataset, ctx: Context) -> Language:
    """The same model with a head that gives words."""
    for role in ("masked", "causal"):
        try:
            return load(hyper.model, role, device=ctx.device, dtype="float32",
                        revision=hyper.revision, corpus=data.item_text or (),
                        seed=ctx.number("language") % 2**31, new_head=True)
        except InputError as error:
            if "of the kind" not in str(error):
                raise
    raise InputError(f"{language.name} neither fills gaps nor continues a text", key="pretrain",
                     hint="take contrastive-dropout or contrastive-pairs")


def _copied(base: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Let the model inside the head begin as the encoder is."""
    missing = base.load_state_dict(dict(state), strict=False).missing_keys
    if missing:
        raise InputError(f"{name} as it gives words is built otherwise than as it encodes "
                         f"({missing[0]})", key="pretrain",
                         hint="take contrastive-dropout or contrastive-pairs")


def _by_pairs(encoder: Encoder, hyper: Pretrained, data: Dataset, texts: Sequence[str],
              ctx: Context, progress: Progress) -> dict[str, Any]:
    language, size = encoder.language, hyper.pretrain_batch
    numbers: dict[str, int] = {}
    code = torch.tensor([numbers.setdefault(t, len(numbers)) for t in texts])  # (n_items,)
    rows = rows_of(language, list(numbers))
    stream = ctx.torch_stream("pretrain", "order")
    partners = Partners(data, ctx.number("pretrain", "pairs"))

    def vectors(codes: Tensor) -> Tensor:
        ids, mask = language.batch([rows[n] for n in codes.tolist()])
        return pool(hidden_states(language, ids, mask), mask, encoder.how)  # (B, width)

    def losses(epoch: int) -> Iterator[Tensor]:
        if hyper.pretrain == "contrastive-pairs":
            first, second = (code[x] for x in partners.draw(epoch))
            differ = first != second  # two items of one text teach nothing
            first, second = first[differ], second[differ]
        else:
            first = second = torch.randperm(len(rows), generator=stream)
        for start in range(0, len(first), size):
            a, b = first[start:start + size], second[start:start + size]
            if len(a) > 1:  # alone there is no negative
                barred = (b[:, None] == b) | (a[:, None] == b)  # (B, B)
                yield info_nce(vectors(a), vectors(b), hyper.pretrain_temperature,
                               barred.to(language.device))

    if hyper.pretrain == "contrastive-dropout":
        language.module.train()
        some = torch.arange(min(len(rows), 4))
        with torch.no_grad():
            still = torch.equal(vectors(some), vectors(some))
        language.module.eval()
        if still:
            raise InputError(f"{language.name} has no dropout, so that a text and itself are "
                             "equal", key="pretrain", hint="take contrastive-pairs or mlm")
    return {"losses": _descend(language.module, hyper, losses, progress)}


def _descend(module: nn.Module, hyper: Pretrained, losses: Callable[[int], Iterator[Tensor]],
             progress: Progress) -> list[float]:
    """AdamW down these losses; the mean loss of each epoch."""
    found = []
    module.train()
    for weight in module.parameters():
        weight.requires_grad_(True)
    try:
        steps = torch.optim.AdamW(module.parameters(), lr=hyper.pretrain_rate, weight_decay=0.0)
        for epoch in range(1, hyper.pretrain_epochs + 1):
            values = []
            for loss in losses(epoch):
                values.append(float(loss.detach()))
                if not math.isfinite(values[-1]):
                    raise TrainingError(f"the loss of pretrain became {values[-1]} in epoch "
                                        f"{epoch}; lower pretrain_rate")
                steps.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                steps.step()
            if not values:
                raise TrainingError(f"there is nothing to pretrain on by {hyper.pretrain}: "
                                    + _NO_BATCH[hyper.pretrain])
            found.append(sum(values) / len(values))
            progress({"epoch": epoch, "epochs": hyper.pretrain_epochs, "loss": found[-1]})
    finally:
        for weight in module.parameters():
            weight.requires_grad_(False)
        module.eval()
    return found


# -- what was learned ----------------------------------------------------------------------------

def encoder_state(encoder: Encoder, hyper: Pretrained) -> dict[str, Tensor]:
    """The encoder's parameters, where it was pre-trained here: texts that come later, as those
    of an attack, are read by the same encoder."""
    if not hyper.pretrains:
        return {}
    return {PREFIX + n: p.detach().cpu().contiguous().clone()
            for n, p in encoder.language.module.named_parameters()}


def take_encoder_state(encoder: Encoder, hyper: Pretrained, state: Mapping[str, Tensor]
                       ) -> dict[str, Tensor]:
    """Put back what `encoder_state` gave; the rest of the state."""
    given = {n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)}
    own = dict(encoder.language.module.named_parameters()) if hyper.pretrains else {}
    if set(given) != set(own):
        raise KeyError(f"learned parameters differ: {set(given) ^ set(own)}")
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
    if given:
        encoder.relearned()
    return {n: v for n, v in state.items() if not n.startswith(PREFIX)}

"""Language models through `transformers`, by hub name or local path; and a tiny one for tests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import InputError, one_line

TINY = "tiny-random"
ROLES = {"encoder": "AutoModel", "masked": "AutoModelForMaskedLM",
         "causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class Language:
    """A loaded language model.

    Attributes:
        module: the transformers model, in evaluation mode, on its device.
        tokenizer: its tokenizer; has a padding token, pads on the right.
        role: "encoder" (hidden states alone), "masked" (BERT), "causal" (GPT) or "seq2seq" (T5).
        name: as the grid names it. limit: most tokens that one text may have.
        begin, end: tokens that stand before and after everything: [CLS] and [SEP] of BERT, the
            begin of GPT-types that have one, the end of T5.
    """

    module: nn.Module
    tokenizer: Any
    role: str
    name: str
    limit: int
    begin: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    _ids: dict[str, list[int]] = field(default_factory=dict)
    _plain: Any = None

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text, not cut off; `special` adds the tokenizer's own begin and end."""
        if special:
            return list(self.tokenizer(text)["input_ids"])
        if text not in self._ids:
            if len(self._ids) > 200_000:
                self._ids.clear()
            # verbose: whoever cuts a long text counts it
            self._ids[text] = list(self.tokenizer(text, add_special_tokens=False,
                                                  verbose=False)["input_ids"])
        return self._ids[text]

    @property
    def room(self) -> int:
        """Most tokens of a text that stands alone."""
        return self.limit - len(self.begin) - len(self.end)

    def plain(self, text: str) -> str:
        """A text of somebody's, as this tokenizer reads it without any control token: see
        `bench.text.control`."""
        if self._plain is None:
            from bench.text.control import Plain

            self._plain = Plain(self.tokenizer)
        return str(self._plain(text))

    def embeddings(self) -> nn.Embedding:
        """The table of token vectors."""
        table = self.module.get_input_embeddings()  # type: ignore[operator]
        assert isinstance(table, nn.Embedding)
        return table

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Rows of token ids, padded on the right: ids and mask, both int64 (B, L)."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, :len(row)] = torch.as_tensor(row)
            mask[n, :len(row)] = 1
        return ids.to(self.device), mask.to(self.device)


def load(name: str, role: str, *, device: str = "cpu", dtype: str = "auto", revision: str = "",
         corpus: Sequence[str] = (), seed: int = 0, new_head: bool = False) -> Language:
    """The model of this name, with its tokenizer.

    Args:
        name: a hub name, a local folder, or "tiny-random": two layers with random weights and a
            vocabulary made of `corpus`, which knows nothing; for tests and for trying a grid.
        role: one of ROLES.
        dtype: of the weights; auto: bfloat16 on a GPU, float32 on a CPU.
        revision: of the hub.
        corpus, seed: of tiny-random.
        new_head: whether weights that are not stored may begin at random, to be trained.

    Raises:
        InputError: there is no such model, it is gated, it cannot be reached, it is of another
            kind, its weights are not all there, or its tokenizer does not belong to it.
    """
    if role not in ROLES:
        raise ValueError(f"role is one of {', '.join(ROLES)}, not {role!r}")
    if not name:
        raise InputError("no language model is named", key="model",
                         hint="a hub name, a local folder, or tiny-random")
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    missing: list[str] = []
    if name == TINY:
        from bench.text.tiny import tiny

        module, tokenizer = tiny(role, corpus, seed)
    else:
        module, tokenizer, missing = _pretrained(name, role, revision, getattr(torch, dtype))
    if role == "causal" and fills_gaps(module):
        raise InputError(f"language model {name!r} fills gaps and writes no text: it is no model "
                         "of the kind causal", key="model", hint="take a GPT- or T5-type model")
    # an encoder may lack what follows its last hidden states, which nobody reads
    if missing and role != "encoder" and not new_head:
        raise InputError(f"language model {name!r} is stored without {len(missing)} of the weights "
                         f"of a {role} model (first {missing[0]}), which would be random",
                         key="model", hint=f"take one that was trained as a {role} model"
                         + (", such as bert-base-uncased" if role == "masked" else ""))
    _check(name, module, tokenizer)
    module = module.to(device=device, dtype=getattr(torch, dtype)).eval()
    for weight in module.parameters():
        weight.requires_grad_(False)
    _exact_head(module)
    return Language(module, tokenizer, role, name, _limit(module, tokenizer),
                    *_frame(role, tokenizer))


def _frame(role: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and after a text, as far as the role has them:
    a writer goes on after a prompt, and what T5 reads begins at once."""
    inner = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    at = next((n for n in range(len(whole) - len(inner) + 1)
               if whole[n:n + len(inner)] == inner), 0)
    before, after = whole[:at], whole[at + len(inner):]
    return (before if role != "seq2seq" else []), (after if role != "causal" else [])


def _exact_head(module: nn.Module) -> None:
    """Logits in float32 where the weights are halves: in bfloat16 those between 16 and 32 are
    an eighth apart, and differences of logits would tie (CATALOGUE G)."""
    head = getattr(module, "get_output_embeddings", lambda: None)()
    if not isinstance(head, nn.Linear) or head.weight.dtype == torch.float32:
        return
    weight = head.weight.detach().float()
    bias = None if head.bias is None else head.bias.detach().float()
    exact: Any = head
    exact.forward = lambda x: nn.functional.linear(x.float(), weight, bias)


def fills_gaps(module: nn.Module) -> bool:
    """Whether it is of BERT's type, which transformers would also load as a (bad) writer."""
    from transformers.models.auto import modeling_auto as known

    config: Any = module.config
    both = known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return (config.model_type in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
            and config.model_type not in both and not getattr(config, "is_decoder", False))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers writes progress bars and advice to the terminal; ours is one table."""
    from transformers.utils import logging as theirs

    logging: Any = theirs
    hub = getLogger("huggingface_hub")
    before, bars, level = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.setLevel(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
        hub.setLevel(level)
        if bars:
            logging.enable_progress_bar()


def _pretrained(name: str, role: str, revision: str, dtype: torch.dtype
                ) -> tuple[nn.Module, Any, list[str]]:
    """The model, its tokenizer, and the names of the weights that are not stored."""
    import transformers

    where = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or where.exists()
    if looks_local and not where.is_dir():
        raise InputError(f"there is no folder {name!r} with a language model", key="model",
                         hint="a folder that save_pretrained wrote, or a hub name")
    more: dict[str, Any] = {"revision": revision} if revision and not looks_local else {}
    source = str(where) if looks_local else name
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(source, **more)
            if role == "causal" and getattr(config, "is_encoder_decoder", False):
                raise ValueError("Unrecognized configuration class: it has an encoder")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **more)
            module, told = getattr(transformers, ROLES[role]).from_pretrained(
                source, dtype=dtype, output_loading_info=True, **more)
    except MemoryError:
        raise
    except Exception as error:  # safetensors and hub raise errors of their own
        if "out of memory" in str(error).lower():
            raise
        raise InputError(f"language model {name!r} cannot be loaded as {role}: "
                         f"{type(error).__name__}: {one_line(error)[:300]}", key="model",
                         hint=_advice(error, looks_local, role)) from error
    return module, tokenizer, sorted(told["missing_keys"])


def _advice(error: BaseException, local: bool, role: str) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        return ("the model is gated: accept its licence on the hub and log in with "
                "`hf auth login`, or name a folder that holds it")
    if "unrecognized" in text or "configuration class" in text:
        return f"it is no model of the kind {role}; take another model or another scorer"
    if local:
        return "the folder needs config.json, model.safetensors and the tokenizer's files"
    return ("no such folder where the run was started, and no such name was found on the hub: "
            "check the name; without a network, name a local folder")


def _check(name: str, module: nn.Module, tokenizer: Any) -> None:
    """A tokenizer that gives ids which the model has no vectors for is not this model's."""
    rows = module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise InputError(f"language model {name!r}: its tokenizer has {len(tokenizer):,} tokens, "
                         f"the model {rows:,} vectors", key="model",
                         hint="the tokenizer belongs to another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise InputError(f"language model {name!r}: its tokenizer has no token to pad with",
                         key="model", hint="give the tokenizer a pad_token or an eos_token")
    tokenizer.padding_side = "right"


def _limit(module: nn.Module, tokenizer: Any) -> int:
    config: Any = module.config
    lengths = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")]
    known = [n for n in lengths if isinstance(n, int) and n > 0]
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        known = [n - 2 for n in known]  # their positions begin at 2
    return min([*known, int(min(tokenizer.model_max_length, 1 << 30))])


def unplaced(params: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The parameters; those of `names` that are folders on this machine no longer say where."""
    return {k: "a local folder" if k in names and content(v) else v for k, v in params.items()}


def contents(name: str) -> tuple[str, ...]:
    """What of a language model belongs into keys beside its name: what lies in its folder, and
    the libraries that it runs in; nothing where none is named."""
    from bench.keys import versions

    return (content(name), str(versions(("transformers", "tokenizers", "peft")))) if name else ()


def content(name: str) -> str:
    """What stands for the contents of a local model in a key: the names and hashes of its files;
    "" for a hub name, where the revision stands for it."""
    from bench.code import file_hash

    folder = Path(name).expanduser()
    if name in ("", TINY) or not folder.is_dir():
        return ""
    h = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(root) / file
            h.update(f"{path.relative_to(folder)} {file_hash(path)}\n".encode())
    return h.hexdigest()[:20]

"""A language model with what is tuned on it; apart, so that listing models imports no torch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import InputError, one_line
from bench.text.language import Language
from bench.text.tuning import Ways, targets

_ADAPTER = "default"  # peft's name of the only adapter
_ORTHOGONAL = 0.5  # weight of AdaLoRA's penalty, as in its paper's GLUE runs and in peft
_SETTLE, _REST = 0.1, 0.2  # AdaLoRA: shares of the steps before ranks fall, and after
_VIRTUAL = ("prefix", "prompt")


class Virtual(nn.Module):
    """A model that reads learned places before every text: vectors of tokens (prompt), or the
    keys and values of each layer (prefix). Callers see the places of their own tokens alone.

    `peft` holds the learned weights and makes prompts of them; its own forward is not used: it
    ignores position ids and knows no cache that already holds the prefix. A cache that is handed
    over and is not empty comes from here, so that the learned places stand in it already.
    """

    def __init__(self, tuned: Any, how: str, tokens: int, role: str) -> None:
        super().__init__()
        self.tuned, self.how, self.tokens, self.role = tuned, how, tokens, role

    @property
    def base(self) -> Any:
        return self.tuned.get_base_model()

    @property
    def config(self) -> Any:
        return self.base.config

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.base.get_input_embeddings()
        return found

    def get_encoder(self) -> Any:
        """The encoder of a T5-type model, learned places included in its hidden states: what
        decodes from them reads those too."""
        if self.role == "encoder":
            return self
        if self.how == "prefix":
            return self.base.get_encoder()

        def encode(input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                   inputs_embeds: Tensor | None = None) -> Any:
            return self.base.get_encoder()(
                inputs_embeds=self._before(input_ids, inputs_embeds),
                attention_mask=self._longer(attention_mask))
        return encode

    def _before(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        own = self.get_input_embeddings()(ids) if embeds is None else embeds  # (B, L, width)
        learned = self.tuned.get_prompt(len(own)).to(own.dtype)  # (B, tokens, width)
        return torch.cat([learned, own], dim=1)

    def _longer(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else torch.cat(
            [mask.new_ones(len(mask), self.tokens), mask], dim=1)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                inputs_embeds: Tensor | None = None, position_ids: Tensor | None = None,
                cache: Any = None, logits_to_keep: int | Tensor | None = None,
                encoder_outputs: Any = None, **more: Any) -> Any:
        known = cache is not None and cache.get_seq_length() > 0
        if position_ids is not None:
            more["position_ids"] = position_ids + self.tokens
        given = {"input_ids": input_ids} if inputs_embeds is None else \
            {"inputs_embeds": inputs_embeds}
        if encoder_outputs is not None:
            given = {"encoder_outputs": encoder_outputs}
        in_text = self.how == "prompt" and not known
        mask = attention_mask
        if self.how == "prefix" and not known:
            rows = input_ids if inputs_embeds is None else inputs_embeds
            rows = encoder_outputs[0] if rows is None else rows
            assert rows is not None
            cache = self.tuned.get_prompt(len(rows))
        if self.role != "seq2seq" or (in_text and encoder_outputs is None):
            mask = self._longer(mask)
        if in_text and encoder_outputs is None:
            given = {"inputs_embeds": self._before(input_ids, inputs_embeds)}
        if cache is not None:
            more["cache"] = cache
        skip = in_text and self.role != "seq2seq"  # learned places whose outputs nobody asked for
        if logits_to_keep is not None:
            picked = isinstance(logits_to_keep, Tensor)
            more["logits_to_keep"] = logits_to_keep + self.tokens if skip and picked \
                else logits_to_keep
        out = self.base(**given, attention_mask=mask, **more)
        return self._cut(out, keep_logits=bool(logits_to_keep is not None)) if skip else out

    def _cut(self, out: Any, keep_logits: bool) -> Any:
        if getattr(out, "logits", None) is not None and not keep_logits:
            out.logits = out.logits[:, self.tokens:]
        if getattr(out, "last_hidden_state", None) is not None:
            out.last_hidden_state = out.last_hidden_state[:, self.tokens:]
        if getattr(out, "hidden_states", None) is not None:
            out.hidden_states = tuple(h[:, self.tokens:] for h in out.hidden_states)
        return out


class Tuning:
    """What training needs to know of the tuned model."""

    def __init__(self, how: str, module: nn.Module, plugin: Ways) -> None:
        self.how, self.module, self.plugin = how, module, plugin
        self._begun = False

    def learned(self) -> dict[str, nn.Parameter]:
        """The parameters that are learned, by name."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def after_step(self, step: int, total: int) -> None:
        """AdaLoRA: measure how much each rank matters and take the least ones away. Call it
        after the optimiser's step, before the gradients are dropped.

        Args:
            step: the steps taken, this one included. total: all steps of the training.
        """
        if self.how != "adalora":
            return
        inner: Any = self.module.base_model
        if not self._begun:
            config = inner.peft_config[_ADAPTER]
            config.total_step = max(total, 2)
            config.tinit, config.tfinal = int(_SETTLE * total), int(_REST * total)
            inner.rankallocator.set_total_step(config.total_step)
            self._begun = True
        inner.update_and_allocate(step)

    def penalty(self) -> Tensor | float:
        """AdaLoRA: 0.5 · the mean of ‖PᵀP − I‖_F over its matrices; of other ways 0."""
        if self.how != "adalora":
            return 0.0
        found = []
        for name, p in self.module.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                square = p @ p.T if ".lora_A." in name else p.T @ p  # (rank, rank)
                found.append((square - torch.eye(len(square), device=p.device)).norm())
        return _ORTHOGONAL * torch.stack(found).mean()

    def ranks(self) -> dict[str, int]:
        """AdaLoRA: how many ranks each layer has left."""
        return {n: int((p != 0).sum()) for n, p in self.module.named_parameters()
                if ".lora_E." in n}

    def facts(self) -> dict[str, Any]:
        """For the report: how much is learned."""
        learned = sum(p.numel() for p in self.learned().values())
        return {"tune": self.how, "learned_parameters": learned}


def wrap(language: Language, plugin: Ways, seed: int) -> Tuning:
    """See `bench.text.tuning.apply_tuning`."""
    how = plugin.tune
    inner: Any = language.module
    if language.role == "encoder" and getattr(inner.config, "is_encoder_decoder", False):
        language.module = inner.get_encoder()  # the decoder would be learned and never be read
    for weight in language.module.parameters():
        weight.requires_grad_(False)
    if how == "full":
        if getattr(plugin, "dtype", "auto") == "auto":  # steps are lost in half precision
            language.module = language.module.float()
        for name, weight in language.module.named_parameters():
            weight.requires_grad_("pooler." not in name)  # a head that nothing reads
    elif how != "none":
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft speaks of its own future and of Conv1D
            torch.default_generator.manual_seed(seed)
            _add(language, plugin)
        language.module.eval()
    return Tuning(how, language.module, plugin)


def _add(language: Language, plugin: Ways) -> None:
    if plugin.tune == "adapters":
        from bench.text.adapters import add_adapters

        try:
            add_adapters(language.module, plugin.bottleneck, targets(plugin))
        except InputError as error:
            raise _refused(language, plugin, "; ".join(filter(None, (error.what, error.hint)))
                           ) from error
        return
    import peft

    made: Any = None
    try:
        made = peft.get_peft_model(language.module, _config(language, plugin))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise _refused(language, plugin, one_line(error)[:300]) from error
    if plugin.tune not in _VIRTUAL:
        if not isinstance(made.get_input_embeddings(), nn.Embedding):
            raise _refused(language, plugin, "the table of token vectors is no layer to tune")
        language.module = made
        return
    weight = made.prompt_encoder[_ADAPTER].embedding.weight
    with torch.no_grad():
        if plugin.tune == "prompt":  # drawn from the vocabulary, as Lester et al. advise
            table = language.embeddings().weight
            drawn = torch.randint(len(table), (len(weight),))
            weight.copy_(table[drawn.to(table.device)])
        else:
            weight.mul_(0.02)  # peft's N(0, 1) would drown the text
    if language.limit <= plugin.virtual_tokens + 2:
        raise _refused(language, plugin, f"it reads {language.limit} tokens and no more")
    language.module = Virtual(made, plugin.tune, plugin.virtual_tokens, language.role)
    language.limit -= plugin.virtual_tokens
    _probe(language, plugin, weight)


def _config(language: Language, plugin: Ways) -> Any:
    import peft
    from peft import TaskType

    c: Any = language.module.config
    names = targets(plugin)
    flat = {"fan_in_fan_out": c.model_type == "gpt2"}  # its layers store weights transposed
    if plugin.tune == "lora":
        return peft.LoraConfig(r=plugin.rank, lora_alpha=plugin.alpha,  # type: ignore[arg-type]
                               lora_dropout=plugin.lora_dropout, target_modules=names, **flat)
    if plugin.tune == "adalora":
        return peft.AdaLoraConfig(init_r=-(-3 * plugin.rank // 2), target_r=plugin.rank,
                                  lora_alpha=plugin.alpha,  # type: ignore[arg-type]
                                  lora_dropout=plugin.lora_dropout, target_modules=names,
                                  total_step=2, **flat)
    if plugin.tune == "ia3":
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING

        known = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(c.model_type, [])
        deep = None if names is None else [n for n in names if n in known]
        return peft.IA3Config(target_modules=names, feedforward_modules=deep, **flat)
    task = {"causal": TaskType.CAUSAL_LM, "seq2seq": TaskType.SEQ_2_SEQ_LM}.get(
        language.role, TaskType.FEATURE_EXTRACTION)
    if plugin.tune == "prompt":
        return peft.PromptTuningConfig(task_type=task, num_virtual_tokens=plugin.virtual_tokens,
                                       token_dim=language.embeddings().embedding_dim,
                                       num_transformer_submodules=1)
    heads = int(c.num_attention_heads)
    width = getattr(c, "head_dim", None) or getattr(c, "d_kv", None) or c.hidden_size // heads
    heads = getattr(c, "num_key_value_heads", None) or heads
    return peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=plugin.virtual_tokens,
                                   num_attention_heads=heads, token_dim=heads * width)


def _probe(language: Language, plugin: Ways, weight: Tensor) -> None:
    """Refuse a model that does not read what was put before its text: some take keys and values
    from outside and drop them without a word."""
    from bench.text.encode import hidden_states
    from bench.text.likelihood import first_logits

    rows = [[*language.begin, 1, 2, *language.end]]
    try:
        if language.role == "encoder":
            out = hidden_states(language, *language.batch(rows))[:, 0]
        else:
            out = first_logits(language, rows)
        mixed = (out.float() * torch.linspace(-1, 1, out.shape[-1], device=out.device)).sum()
        slope = None
        if mixed.requires_grad:
            slope, = torch.autograd.grad(mixed, weight, allow_unused=True)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise _refused(language, plugin, one_line(error)[:300]) from error
    if slope is None or not bool((slope != 0).any()):
        raise _refused(language, plugin, "it does not read what is put before its text")


def _refused(language: Language, plugin: Ways, why: str) -> InputError:
    kind = getattr(language.module.config, "model_type", "unknown")
    hint = "take tune: full, or another way" if plugin.tune in _VIRTUAL else \
        "name layers of this model in target_modules, or take tune: full"
    return InputError(f"language model {language.name!r} ({kind}) cannot be tuned by "
                      f"{plugin.tune}: {why}", key="tune", hint=hint)

"""Ways to tune a language model: all of its weights, or few added ones, most through `peft`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import ModelPlugin, param
from bench.errors import InputError
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.text.language import Language
    from bench.text.wrapping import Tuning

WAYS = ("lora", "adalora", "ia3", "prefix", "prompt", "adapters", "full", "none")
WHAT = ("what is learned: full (all weights), added ones (lora, adalora, ia3, prefix, prompt, "
        "adapters), or none")


class Ways(ModelPlugin):
    """Parameters that say in which way a language model is tuned.

    LoRA: Hu et al., ICLR 2022 · AdaLoRA: Zhang et al., ICLR 2023 · IA³: Liu et al., NeurIPS
    2022 · prefix: Li & Liang, ACL 2021 (without the network that makes the prefix) · prompt:
    Lester et al., EMNLP 2021 · adapters: Houlsby et al., ICML 2019 (the norms, which they learn
    too, stay).
    """

    tune: str = param("lora", WHAT, choices=WAYS)
    rank: int = param(8, "of lora; of adalora the mean rank at the end, which begins at half as "
                      "much again", low=1)
    alpha: float = param(16.0, "lora and adalora: what they add is scaled by alpha / rank "
                         "(adalora's by alpha / its rank at the beginning)", above=0)
    lora_dropout: float = param(0.05, "share of what lora and adalora read that is dropped in "
                                "training", low=0, high=0.99)
    virtual_tokens: int = param(20, "prefix and prompt: places that are put before the text",
                                low=1)
    bottleneck: int = param(64, "adapters: width between their two maps (the paper: 8 to 256)",
                            low=1)
    target_modules: str = param("", "lora, adalora, ia3, adapters: names of the layers that are "
                                "tuned, with commas; empty: by architecture (lora: queries and "
                                "values; adapters: after every attention and feed-forward network)")

    def not_private(self) -> str | None:
        """Why one user would move what is tuned by more than a clipped gradient, or None. A model
        of which somebody has checked that it learns from each user's rows apart overrides this
        and ends with `tuned_privately`."""
        return f"that {self.name} learns from each user's rows apart is not checked"

    def tuned_privately(self) -> str | None:
        """Why this way of tuning cannot be private, or None."""
        if self.tune == "none":
            return "nothing is tuned"
        if self.tune == "adalora":
            return "adalora takes ranks away by what plain steps show, which private ones do not"
        return None


class Tuned(Ways, TrainedModel):
    """Parameters of models whose language model is tuned. List it after the other bases, as
    `class Mine(PromptedModel, Tuned)`, so that their checks run too.
    """

    epochs: int = param(10, "most passes over the examples", low=1)
    batch_size: int = param(128, "examples per step", low=1)
    optimizer: str = param("adamw", "how steps are taken",
                           choices=("adam", "adamw", "sgd", "adagrad"))
    learning_rate: float = param(1e-4, "step size", above=0)
    patience: int = param(2, "validations without improvement before stopping; 0: never stop, "
                          "keep the last epoch", low=0)
    warmup: float = param(0.05, "share of all steps in which the step size rises from 0",
                          low=0, high=1)
    schedule: str = param("constant", "the step size after warm-up: constant, or linear down to "
                          "0 at the last step of the last epoch", choices=("constant", "linear"))
    validate_users: int = param(100, "most users, drawn by seed, whose lists are made when "
                                "training validates; 0: all that are asked for", low=0)


def apply_tuning(language: Language, plugin: Ways, seed: int) -> Tuning:
    """Put what the plugin asks for on `language.module`, which from then on is the tuned model;
    the parameters to be learned ask for gradients, no others do.

    Args:
        seed: of the added weights. They draw from a generator of their own.

    Returns:
        What training needs of it: `after_step`, `penalty`, `facts`.

    Raises:
        InputError: the architecture cannot be tuned in this way.
    """
    from bench.text.wrapping import wrap

    return wrap(language, plugin, seed)


def targets(plugin: Ways) -> list[str] | None:
    """The names in `target_modules`, or None for those of the architecture.

    Raises:
        InputError: commas without names between them.
    """
    if not plugin.target_modules.strip():
        return None
    names = [n.strip() for n in plugin.target_modules.split(",")]
    if not all(names):
        raise InputError(f"{plugin.target_modules!r} has a comma without a name",
                         key="target_modules", hint='as "q_proj, v_proj"')
    return names

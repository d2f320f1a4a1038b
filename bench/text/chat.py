"""Chat templates: what a tokenizer puts around a user's message, for models tuned on dialogues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.errors import InputError, one_line
from bench.text.language import Language

CHAT = ("auto", "true", "false")
_DATE = "26 Jul 2024"  # what Llama's templates say where no date is known
# A template that asks for today's date would give other scores tomorrow.
_STILL = "{%- macro strftime_now(format) %}" + _DATE + "{% endmacro %}"
_MARK = "\ue000message\ue001"  # private use: no template does anything with it
_SAMPLE = "What do you\n\n- \"like\" next?\nAnswer:"


@dataclass(frozen=True)
class Chat:
    """What stands before a user's message, begin of text included, and from its end up to where
    the assistant's answer begins."""

    head: str
    tail: str


def chat_of(language: Language, wanted: str) -> Chat | None:
    """What the tokenizer's chat template puts around one message of a user; None where prompts
    are asked as they are. There is no system turn but the one that the template makes itself;
    the answer begins at once (`enable_thinking` false), and dates stand still.

    Args:
        wanted: one of CHAT. auto: a template is used where the tokenizer has one and the model
            is GPT-type. Models that were not tuned on dialogues mostly have none.

    Raises:
        InputError: a template is wanted and there is none, or it cannot be used: it fails, or it
            does not leave the message as it is.
    """
    if wanted == "false":
        return None
    template = getattr(language.tokenizer, "chat_template", None)
    if language.role != "causal":
        if wanted == "true":
            raise InputError(f"{language.name!r} writes no turn of a dialogue: it is of the kind "
                             f"{language.role}", key="chat",
                             hint="chat: auto, or a GPT-type model")
        return None
    if not template:
        if wanted == "true":
            raise InputError(f"the tokenizer of {language.name!r} has no chat template",
                             key="chat", hint="chat: auto, or a model that was tuned on dialogues")
        return None
    head, found, tail = _rendered(language, _MARK).partition(_MARK)
    if not found or _rendered(language, _SAMPLE) != head + _SAMPLE + tail:
        raise InputError(f"the chat template of {language.name!r} does not leave a message as it "
                         "is", key="chat", hint="chat: false asks without it")
    return Chat(head, tail)


def _rendered(language: Language, message: str) -> str:
    tokenizer: Any = language.tokenizer
    try:
        template = tokenizer.get_chat_template()
        return str(tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], chat_template=_STILL + template,
            tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=_DATE))
    except Exception as error:  # jinja2 and templates raise errors of many kinds
        raise InputError(f"the chat template of {language.name!r} fails: "
                         f"{type(error).__name__}: {one_line(error)[:200]}", key="chat",
                         hint="chat: false asks without it") from error

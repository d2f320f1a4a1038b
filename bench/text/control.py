"""Item texts without what a tokenizer reads as control tokens.

A tokenizer makes of "<eos>" or "[SEP]" in an item's title the very token that ends a text, of
"<start_of_turn>" one that a chat template alone may write. transformers' `split_special_tokens`
reads them as plain text, but in a whole prompt, whose own control tokens have to stay. So the
titles are changed, and as little as can be: a space is put behind the first character.

Tokenizers do not call all of them special: Gemma's "<start_of_image>", Qwen's "<think>". An added
token counts as one, too, if a chat template writes it, or if it stands in brackets and is no tag of
HTML ("<b>", "</td>"), which titles may hold and which controls nothing.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BRACKETED = re.compile(r"<.*>|\[.*\]|\{.*\}|\|.*\|", re.DOTALL)
_HTML = re.compile(
    r"</?(a|abbr|article|aside|b|blockquote|body|br|button|caption|center|cite|code|col|colgroup|"
    r"dd|del|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|"
    r"img|input|ins|kbd|label|li|link|main|mark|meta|nav|ol|option|p|pre|q|s|samp|script|section|"
    r"select|small|span|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|"
    r"title|tr|tt|u|ul|var)>")
"""The tags of HTML that stand in texts; an added "<think>" or "<image>" is none, and
neither is "<s>" where a tokenizer calls it special."""


class Plain:
    """Text in, text out that this tokenizer reads without any control token; texts that hold none
    come out as they are. Twice is once.

    Args:
        tokenizer: of transformers, fast or slow.
    """

    def __init__(self, tokenizer: Any) -> None:
        template = str(getattr(tokenizer, "chat_template", None) or "")
        known = {str(t): int(n) for n, t in tokenizer.added_tokens_decoder.items()
                 if t.special or _controls(str(t), template)}
        known |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._tokenizer = tokenizer
        self._ids = set(known.values()) - {tokenizer.unk_token_id}  # odd letters are unknown, too
        self._texts = sorted((t for t in known if t.strip()), key=lambda t: -len(t))
        self._exact = _any(self._texts)
        near = [_folded(t) for t in self._texts]
        self._begins, self._near = {t[:1] for t in near}, _any(near)
        self._kept: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        seen = _folded(text)
        if self._near is None or not self._begins & set(seen) or not self._near.search(seen):
            return text
        if text not in self._kept:
            if len(self._kept) > 100_000:
                self._kept.clear()
            self._kept[text] = self._split(text)
        return self._kept[text]

    def _split(self, text: str) -> str:
        while self._exact is not None and self._exact.search(text):
            text = self._exact.sub(lambda m: f"{m[0][0]} {m[0][1:]}" if m[0][1:] else " ", text)
        if self._special(text):  # one that is looked for in the normalised text
            text = "".join(c if c.isalnum() or c.isspace() else f" {c} " for c in text)
        if self._special(text):
            text = "".join(c if c.isalnum() else " " for c in text)
        return text

    def _special(self, text: str) -> bool:
        return bool(self._ids & set(self._tokenizer(text, add_special_tokens=False)["input_ids"]))


def _controls(token: str, template: str) -> bool:
    """Whether an added token that is not called special is one of control."""
    if not _BRACKETED.fullmatch(token):
        return False
    return token in template or not _HTML.fullmatch(token)


def _any(texts: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _folded(text: str) -> str:
    """As any tokenizer's normaliser may make of it: compatibility forms, marks and case gone."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if (c.isascii() and not c.isspace()) or c.isalnum())

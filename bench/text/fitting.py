"""Texts of items cut where a prompt would not fit otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from bench.errors import InputError
from bench.text.language import Language
from bench.text.reader import TextReader


class Fitting(TextReader):
    """Base of scorers whose prompts hold texts of items, read through `text_of`.

    A prompt that does not fit loses the oldest items of its history (`begin` leaves them out).
    One overlong text must not empty it: where it would lose any, texts longer than twice the
    median of the candidates' are cut to that first. Where it fits without any history neither,
    they are cut further. Who is cut is counted, and so are the prompts with shorter histories.
    """

    language: Language
    left_out: int = 0
    """Items that the prefix made last had no room for."""
    _most: int | None = None
    _cut: set[int] | None = None
    _shorter: dict[int, int] | None = None

    def text_of(self, item: int) -> str:
        """The text of an item as the prompt that is being made holds it."""
        text = self.texts[item]
        if self._most is None or len(self.language.ids(text)) <= self._most:
            return text
        self._cut = set() if self._cut is None else self._cut
        self._cut.add(int(item))
        return beginning(self.language, text, self._most)

    @contextlib.contextmanager
    def fitting(self, items: Sequence[int], history: Sequence[int], room: Callable[[], int],
                begin: Callable[[int], list[int]]) -> Iterator[list[int]]:
        """Inside, `text_of` cuts as the prompt about these items needs it; gives its prefix.

        Args:
            items: the candidates. history: whatever else it may show. room: tokens that follow
                the prefix. begin: the prefix that leaves so much room; it raises InputError
                where none does.

        Raises:
            InputError: it does not fit with texts of one token; names the longest one's item.
        """
        before = self._most
        try:
            prefix = self._begun(items, history, room, begin)
            if self.left_out:
                self._shorter = {} if self._shorter is None else self._shorter
                self._shorter[hash(tuple(prefix))] = self.left_out
            yield prefix
        finally:
            self._most = before

    def take_facts(self) -> dict[str, int]:
        """Beside the reader's: `histories_cut`, distinct prompts whose history lost its oldest
        items, and `history_items_cut`, how many items; since it was last asked, which for a
        tuned model includes its tuning."""
        shorter, self._shorter = self._shorter or {}, None
        found = {"histories_cut": len(shorter), "history_items_cut": sum(shorter.values())}
        return {**super().take_facts(), **{k: n for k, n in found.items() if n}}

    def _begun(self, items: Sequence[int], history: Sequence[int], room: Callable[[], int],
               begin: Callable[[int], list[int]]) -> list[int]:
        lengths = sorted((len(self.language.ids(self.texts[i])), i) for i in items)
        usual = max(1, 2 * lengths[len(lengths) // 2][0]) if lengths else 1
        longest = max([n for n, _ in lengths]
                      + [len(self.language.ids(self.texts[i])) for i in history], default=1)
        self._most = None
        while True:
            try:
                found = begin(room())
            except InputError as error:
                if self._most == 1 or not lengths:
                    named = "" if not lengths else \
                        f", with the text of {self.data.item_ids[lengths[-1][1]]!r} cut to a token"
                    raise InputError(error.what + named, key=error.key,
                                     hint=error.hint) from error
                first = self._most is None and longest > usual
                self._most = usual if first else max(1, (self._most or longest) // 2)
                continue
            if self._most is None and self.left_out and longest > usual:
                self._most = usual
                continue
            return found


def marked(language: Language, lead: str, text: str, follow: str = "") -> list[bool]:
    """Which tokens of lead + text + follow, read as one, hold a letter of `text`. Many tokenizers
    join a word with the space before it, so that tokens counted part by part would be others.
    Of a slow tokenizer, which does not say where its tokens stand, by such counts."""
    tokenizer = language.tokenizer
    begin, end = len(lead), len(lead) + len(text)
    if tokenizer.is_fast:
        spans = tokenizer(lead + text + follow, add_special_tokens=False, verbose=False,
                          return_offsets_mapping=True)["offset_mapping"]
        return [a < end and b > begin and b > a for a, b in spans]
    first, last = (len(language.ids(t)) for t in (lead.rstrip(" "), lead + text))
    return [first <= n < last for n in range(len(language.ids(lead + text + follow)))]


def beginning(language: Language, text: str, most: int) -> str:
    """The first `most` tokens of a text, as text."""
    tokenizer = language.tokenizer
    if tokenizer.is_fast:
        spans = tokenizer(text, add_special_tokens=False,
                          return_offsets_mapping=True)["offset_mapping"]
        return text[:spans[most - 1][1]]
    return str(tokenizer.decode(language.ids(text)[:most]))

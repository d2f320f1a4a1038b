"""Letters that look like a Latin letter or a digit, and characters that nobody sees."""

from __future__ import annotations

import unicodedata

# One row per Latin letter. NFKC has already made Latin of full-width, mathematical, circled and
# superscript letters; what is left are letters of other scripts, and Latin letters with a
# separate code point. The rows follow Unicode's confusables (UTS 39) for Cyrillic, Greek,
# Armenian, Coptic, Cherokee and the Latin extensions, and hold every letter that the homoglyph
# swaps of TextAttack and DeepWordBug put in.
_ROWS = {
    "a": "аɑα", "b": "Ьь", "c": "сϲςⲥᴄ", "d": "ԁժɗ", "e": "еҽɛεє", "g": "ɡցǥ", "h": "һհ",
    "i": "іıɩιӏɪ", "j": "јϳ", "k": "кκᴋ", "l": "ⅼǀ", "m": "мᴍ", "n": "пոηɴ", "o": "оοօⲟσᴏ",
    "p": "рρⲣ", "q": "ԛգզ", "r": "гⲅᴦ", "s": "ѕꜱ", "t": "тτᴛ", "u": "ս∪υᴜ", "v": "ѵνᴠ",
    "w": "ԝաѡᴡ", "x": "хχ×", "y": "уүγʏ", "z": "ᴢʐ",
    "A": "АΑᎪ", "B": "ВΒᏴ", "C": "СϹΣᏟⲤ", "D": "Ꭰ", "E": "ЕΕᎬ", "F": "ϜҒ", "G": "ԌᏀ", "H": "НΗᎻ",
    "I": "ІΙӀⲒ", "J": "ЈᎫͿ", "K": "КΚᏦ", "L": "ᏞԼ", "M": "МΜᎷϺ", "N": "ΝⲚ", "O": "ОΟՕⲞ",
    "P": "РΡᏢⲢ", "Q": "Ԛ", "R": "ᎡᏒ", "S": "ЅՏᏚ", "T": "ТΤᎢⲦ", "U": "Ս", "V": "ѴᏙ", "W": "ԜᎳ",
    "X": "ХΧⲬ", "Y": "УҮΥⲨ", "Z": "ΖᏃ",
    "2": "ᒿ", "3": "Ʒ", "4": "Ꮞ", "5": "Ƽ", "6": "б", "8": "Ȣ", "9": "৭", "-": "˗‐‑−", "'": "ʼʹ’‘",
}
LOOKALIKES = {other: latin for latin, others in _ROWS.items() for other in others}

# Blank or joining characters that are no format characters (Cf) by their Unicode category:
# combining grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation
# selectors, the blank Braille pattern.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0,
          *range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def unseen(character: str) -> bool:
    """Whether nobody sees it: control, zero-width, bidi, tag, variation selector, private use.

    White space (tab, line break) is seen.
    """
    if character.isspace():
        return False
    return ord(character) in _BLANK or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")


def latin(word: str) -> str:
    """The word with its look-alikes written in Latin letters, and without the marks that are
    stacked on Latin letters.

    A word that has no Latin letter, and has one that looks like none, is a word of another
    script, and stays.

    >>> latin("\\u0441\\u043e\\u0440y"), latin("\\u043c\\u0438\\u0440")
    ('copy', 'мир')
    """
    letters = [c for c in word if c.isalpha()]
    foreign = [c for c in letters if not c.isascii() and c not in LOOKALIKES
               and not unicodedata.name(c, "").startswith("LATIN")]
    if foreign and not any(unicodedata.name(c, "").startswith("LATIN") and c not in LOOKALIKES
                           for c in letters):
        return word
    made: list[str] = []
    for c in word:
        c = LOOKALIKES.get(c, c)
        if unicodedata.combining(c) and made and unicodedata.name(
                made[-1], "").startswith("LATIN"):
            continue
        made.append(c)
    return "".join(made)

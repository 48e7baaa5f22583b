"""Between reading and caching: what two texts have in common, and what of one may leave.

`normalise` and `content_key` decide which reviews are one content, and so share an answer;
`redact` masks what could identify a person before a text is sent or shown.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from html import unescape
from html.entities import html5

NORMALISER_VERSION = "1"

_INLINE = "a|abbr|b|big|em|font|i|mark|small|span|strong|tt|u"
_BLOCK = (
    "blockquote|br|center|code|dd|div|dl|dt|h[1-6]|hr|img|li|ol|p|pre|sub|sup|table|tbody|td|th|tr"
    "|ul"
)
_TAG = re.compile(rf"</?(?:({_INLINE})|{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_MARKUP_ROUNDS = 4  # markup inside escaped markup; what is nested deeper loses its < and &
_PUNCTUATION_RUN = re.compile(r"([!?.,;:()~-])\1+")
_TOKEN = re.compile(r"\w{3,}")
_ELONGATED = re.compile(r"(\w)\1{2,}")
# Their length is their meaning: AAA batteries, Part III, size XXXL, model numbers.
_CODE = re.compile(r"(\w)\1*s?|[ivxlcdm]+|x+(?:s|l|small|large)|\w*\d\w*")


class _Characters(dict[int, str]):
    """Translation of code points that only look different; grows as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        folded = character
        if category == "Cc":
            folded = ""
        elif category == "Cs":
            folded = "\ufffd"
        elif category == "Pd":
            folded = "-"
        elif category == "No":
            folded = self._number(character)
        self[code] = folded
        return folded

    @staticmethod
    def _number(character: str) -> str:
        # NFKC alone would turn 10 with an exponent 2 into 102, and 2 and a half into 21/2.
        plain = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
        decomposition = unicodedata.decomposition(character)
        if not decomposition or decomposition.startswith("<sub>"):
            return plain
        return f"^{plain}" if decomposition.startswith("<super>") else f" {plain} "


_CHARACTERS = _Characters(
    dict.fromkeys(b"`\xb4", "'")
    | dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u2032\u02bc"), "'")
    | dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\xab\xbb"), '"')
    | {0x2212: "-"}
    # Trademark signs, soft hyphen, zero-width and direction marks, variation selectors.
    | dict.fromkeys(map(ord, "\u2122\xae\xa9\u2120\xad\u034f\u200b\u200e\u200f\ufeff"), "")
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2060, 0x206A), *range(0xFE00, 0xFE10)], "")
)


def _unify(word: str) -> str:
    word = unicodedata.normalize("NFKC", word.translate(_CHARACTERS)).lower()
    return unicodedata.normalize("NFKC", word).translate(_CHARACTERS)


def _has_triple(text: str) -> bool:
    """Whether a character stands three times in a row; says so too of a few others."""
    # A byte equals the next where their exclusive or is zero: ten times faster than a pattern.
    data = text.encode()
    number = int.from_bytes(data, "little")
    return b"\0\0" in (number ^ number >> 8).to_bytes(len(data), "little") or not text.isascii()


def _shorten(token: re.Match[str]) -> str:
    if _CODE.fullmatch(token[0]):
        return token[0]
    # Only scripts with case elongate by repeating; in others a repeated sign may be a numeral.
    return _ELONGATED.sub(lambda run: run[1] * 2 if run[1].upper() != run[1] else run[0], token[0])


def _fold_words(text: str) -> str:
    words = text.lower().split()
    if text.isascii():
        text = " ".join(words).translate(_CHARACTERS)
    else:
        words = [w.translate(_CHARACTERS) if w.isascii() else _unify(w) for w in words]
        text = " ".join(words)
    text = _PUNCTUATION_RUN.sub(r"\1", text)
    if _has_triple(text):
        words = [_TOKEN.sub(_shorten, w) if _ELONGATED.search(w) else w for w in text.split()]
        text = " ".join(words)
    return " ".join(text.split()) if "  " in f" {text} " else text


def _entity(entity: re.Match[str]) -> str:
    name = entity[0]
    return unescape(name) if name[1] == "#" else html5.get(name[1:], name)


def _fold(text: str) -> str:
    for _ in range(_MARKUP_ROUNDS):
        if "<" in text or "&" in text:
            text = _ENTITY.sub(_entity, _TAG.sub(lambda tag: "" if tag[1] else " ", text))
        text = _fold_words(text)
        if not ("<" in text or "&" in text) or not (_TAG.search(text) or _ENTITY.search(text)):
            return text
    return _fold_words(text.replace("<", " ").replace("&", " "))


def normalise(title: str | None, text: str) -> str:
    """The content of a review in one spelling: `title`, a line feed and `text`, or `text` alone.

    Equal for texts that differ in case, Unicode form, HTML, white space, runs of punctuation,
    style of quotes and dashes, invisible characters, trademark signs or elongated letters; digits,
    negations and kinds of punctuation stay. Case is lower case, not case folding, which would
    merge German words of different meaning. Applying it to its own result changes nothing.
    """
    head = _fold(title) if title else ""
    return f"{head}\n{_fold(text)}" if head else _fold(text)


def content_key(normalised: str) -> str:
    """The key of a normalised content: 32 hexadecimal digits of a 16-byte BLAKE2b."""
    return hashlib.blake2b(normalised.encode(), digest_size=16).hexdigest()


_EMAIL = re.compile(r"[\w.%+-]{1,64}@[\w-]+(?:\.[\w-]+)*\.\w{2,}")
_MANY_DIGITS = re.compile(r"\d(?:[ .()-]{0,3}\d){6}")  # what a card or phone number has at least
_CARD_RUN = re.compile(r"(?<!\w)(?<!\d\.)(?:\d[ -]?){12,}\d(?!\w)")
_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689])\d{12}"
    r"|35\d{14}|6\d{15,18}"
)
_PHONE = re.compile(
    r"""
    (?<![\w$€£.\-/])
    (?: \+(?=(?:[ .()-]{0,3}\d){9})\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}        # international
      | (?:1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}  # North America
      | 0\d(?:[ .-]\d\d){4}                                                  # in pairs
      | \(?0\d{2,4}\)?[ -]\d{3,4}[ -]?\d{3,4}                                # with a trunk zero
      | 0\d{10}
    )
    (?!\w|[.-]\d)
    """,
    re.VERBOSE,
)
_CALLED = re.compile(
    r"\b((?:call|phone|telephone|tel|mobile|cell|fax|whatsapp|txt|sms)[ :.#]{1,3}"
    r"(?:(?:me|us|at|on|number|no)[ :.#]{1,3}){0,2})\d(?:[ -]?\d){6,13}(?!\w|[.-]\d)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with e-mail addresses, card and phone numbers as [email], [card] and [phone].

    Cards are runs of 13 to 19 digits of an issuer's range that pass the Luhn check. Digits that
    are not grouped like a phone number are masked only after a word such as `call`.
    """
    if "@" in text:
        text = _EMAIL.sub("[email]", text)
    if not _MANY_DIGITS.search(text):
        return text
    text = _CARD_RUN.sub(_mask_cards, text)
    return _CALLED.sub(r"\1[phone]", _PHONE.sub("[phone]", text))


def _mask_cards(match: re.Match[str]) -> str:
    run = match[0]
    at = 0
    masked = ""
    while at < len(run):
        end = _card_end(run, at)
        masked += "[card]" if end else run[at]
        at = end or at + 1
    return masked


def _card_end(run: str, start: int) -> int | None:
    """Where a card number that starts there ends; both ends lie between groups of digits."""
    if not run[start].isdigit() or (start and run[start - 1].isdigit()):
        return None
    digits = ""
    for at in range(start, len(run)):
        if run[at].isdigit():
            digits += run[at]
            ends = at + 1 == len(run) or not run[at + 1].isdigit()
            if ends and _CARD.fullmatch(digits) and _passes_luhn(digits):
                return at + 1
            if len(digits) > 19:
                break
    return None


def _passes_luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + at % 2) for at, d in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0

"""Text normalisation for TTS: written English to words, with markup, URLs, symbols, abbreviations and initialisms.

`normalise("Dr. Smith (NASA) paid **$3.50** for 2 kg.")` is
`"doctor smith, nasa, paid three dollars and fifty cents for two kilograms."`. A result holds lower-case words, single
capitals that stand for letter names, apostrophes inside words and the marks `, . ; : ? !`, and nothing else.
Numbers are handled by `numbers_to_words`.
"""

# ruff: noqa: RUF001 - typographic marks and phonetic letters are the subject

import re
import unicodedata
from collections.abc import Callable

from anyascii import anyascii

from model_core.text.numbers import numbers_to_words

_SYMBOL_WORDS = {
    "&": "and", "+": "plus", "=": "equals", "<": "less than", ">": "greater than", "%": "percent", "@": "at",
    "^": "to the power of",
    "×": "times", "÷": "divided by", "±": "plus or minus", "≈": "about", "≤": "at most", "≥": "at least",
    "≠": "does not equal", "→": "to", "²": "squared", "³": "cubed", "°": "degrees", "€": "euros", "£": "pounds",
    "¥": "yen", "$": "dollars", "©": "copyright", "®": "", "™": "", "µ": "micro", "π": "pi", "∞": "infinity",
    "√": "square root of", "¼": "one quarter", "½": "one half", "¾": "three quarters", "§": "section",
}  # fmt: skip
_PUNCTUATION = str.maketrans({
    "’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "…": "...", "—": ", ", "–": ", ",
    "―": ", ", "−": "-", "‐": "-", "‑": "-", "\u00a0": " ", "\u202f": " ", "\u00ad": "", "\u200b": "", "。": ". ",
    "、": ", ", "，": ", ", "？": "? ", "！": "! ", "；": "; ", "：": ": ", "¿": "", "¡": "", "•": " ", "·": " ",
})  # fmt: skip
_ABBREVIATIONS = {
    "dr": "doctor", "mr": "mister", "mrs": "missus", "ms": "miz", "prof": "professor", "st": "saint", "jr": "junior",
    "sr": "senior", "gen": "general", "capt": "captain", "lt": "lieutenant", "rev": "reverend", "gov": "governor",
    "sen": "senator", "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department",
    "inc": "incorporated", "ltd": "limited", "corp": "corporation", "mt": "mount", "fig": "figure", "vol": "volume",
    "est": "established", "ave": "avenue", "blvd": "boulevard",
    "jan": "january", "feb": "february", "aug": "august", "sept": "september", "oct": "october", "nov": "november",
    "dec": "december",
}  # fmt: skip
_OPERATORS = {"!=": "does not equal", "==": "equals", "<=": "at most", ">=": "at least", "->": "to", "=>": "to"}
_OPERATOR = re.compile("|".join(_OPERATORS))
# Words in capitals that are read as words even though they are short: emphasis, and acronyms.
_CAPITALS_READ_AS_WORDS = frozenset({
    "am", "an", "and", "are", "as", "at", "be", "but", "by", "do", "for", "go", "he", "if", "in", "is", "it", "its",
    "me", "my", "no", "not", "of", "off", "on", "one", "or", "our", "out", "she", "so", "the", "to", "two", "up",
    "was", "we", "yes", "you", "all", "any", "can", "did", "get", "had", "has", "her", "him", "his", "how", "new",
    "now", "may", "old", "see", "too", "use", "who", "why", "covid", "laser", "pin", "ram", "sim",
})  # fmt: skip

_RANGE_DASH = re.compile(r"(?<=\d)\s?–\s?(?=\d)")
_VISIBLE_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Sm", "Sc", "Sk", "So", "Co"})
_CODE_FENCE = re.compile(r"```[\w+-]*")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_LINE_MARK = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]+|>+[ \t]?|[-*+•][ \t]+|[-*_=]{3,}[ \t]*$|\|?[ \t]*:?-{3,}[-| :\t]*$)", re.M
)
_LINE_NUMBER = re.compile(r"^([ \t]*\d{1,3})[.)](?=[ \t]+\S)", re.M)
_LINE_END = re.compile(r"(?<=[^\s.,;:?!])[ \t]*\n+")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>")
_URL = re.compile(r"\b(?:https?://|ftp://|www\.)[^\s<>\"'`]+[^\s<>\"'`.,;:?!)\]*_]", re.I)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_DOMAIN = re.compile(r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|io|ai|dev|edu|gov|co|uk|de)\b", re.I)
_EMPHASIS = re.compile(r"[*_~`]{2,}|(?<![\w*])[*_](?=\w)|(?<=[\w.,;:?!])[*_](?!\w)|`")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[A-Z]{2})(?=[A-Z][a-z]{2})")
_DOTTED_INITIALS = re.compile(r"\b(?:[A-Za-z]\.){2,}(?=[A-Za-z]?\b|\W|$)")
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.(?=\s|,|$)", re.I)
_CAPITALS = re.compile(r"\b([A-Z]{2,})('?s)?\b")
_LETTER_A = re.compile(r"(?<=[\w,] )A(?= ?(?:[.,;:?!]|$))")


def normalise(text: str, known_word: Callable[[str], bool] = lambda word: False) -> str:
    """`text` in words as they are read aloud; empty when there is nothing to read (blank, or punctuation alone).

    Args:
        text: Anything a language model writes: prose, markdown, URLs, code, emoji, any script.
        known_word: Whether a lower-case word is in the lexicon; capitals that spell such a word are read as a word
            (NASA), others letter by letter (HTTP).
    """
    plain = _RANGE_DASH.sub("-", unicodedata.normalize("NFC", text))
    plain = _without_markup(plain.translate(_PUNCTUATION))
    plain = _URL.sub(_read_url, plain)
    plain = _EMAIL.sub(_read_url, plain)
    plain = _DOMAIN.sub(_read_url, plain)
    plain = _CAMEL.sub(" ", plain)
    plain = re.sub(r"\be\.g\.,?", "for example,", plain, flags=re.I)
    plain = re.sub(r"\bi\.e\.,?", "that is,", plain, flags=re.I)
    plain = numbers_to_words(plain)
    plain = _ABBREVIATION.sub(_read_abbreviation, plain)
    plain = _OPERATOR.sub(lambda match: f" {_OPERATORS[match.group()]} ", plain)
    plain = numbers_to_words(_read_symbols(plain))  # again, for digits of other scripts
    plain = _DOTTED_INITIALS.sub(_read_dotted_initials, plain)
    plain = _read_capitals(plain, known_word)
    plain = _tidy(plain)
    if plain or text.isascii():
        return plain
    unread = any(unicodedata.category(character) in _VISIBLE_CATEGORIES for character in text)
    return "symbol" if unread else ""


def _without_markup(text: str) -> str:
    text = _CODE_FENCE.sub(" ", text)
    text = _LINK.sub(r"\1", text)
    text = _LINE_MARK.sub("", text)
    text = _LINE_NUMBER.sub(r"\1,", text)
    text = _TAG.sub(" ", text)
    text = re.sub(r"\s*\|\s*", ", ", text)
    text = _LINE_END.sub(". ", text)
    return _EMPHASIS.sub("", text)


def _read_url(match: re.Match[str]) -> str:
    """`https://www.lyra.ai/docs/a-b?x=1` -> `lyra dot ai slash docs slash a dash b`; reading stops at `?` and `#`."""
    address = re.sub(r"^(?:\w+://)?(?:www\.)?", "", match.group(), flags=re.I)
    address = re.split(r"[?#]", address, maxsplit=1)[0].rstrip("/")
    for sign, word in ((".", "dot"), ("/", "slash"), ("-", "dash"), ("_", "underscore"), ("@", "at"), (":", "colon")):
        address = address.replace(sign, f" {word} ")
    return address


def _read_abbreviation(match: re.Match[str]) -> str:
    word = match.group(1)
    ends_sentence = match.end() == len(match.string) or match.string[match.end() :].isspace()
    return _ABBREVIATIONS[word.lower()] + ("." if ends_sentence else "")


def _read_dotted_initials(match: re.Match[str]) -> str:
    """`U.S.` -> `US`, with a full stop at the end of the text."""
    letters = match.group().replace(".", "").upper()
    return f" {' '.join(letters)}{'.' if not match.string[match.end() :].strip() else ' '}"


def _read_symbols(text: str) -> str:
    has_words = any(character.isalnum() for character in text)
    words: list[str] = []
    for character in text:
        if character in _SYMBOL_WORDS:
            words.append(f" {_SYMBOL_WORDS[character]} ")
        elif character.isascii():
            words.append(character)
        elif unicodedata.category(character) in ("So", "Sk", "Mn", "Me", "Cf", "Co", "Cn", "Cs"):
            # Emoji and ornaments beside words are dropped; alone they are named.
            words.append("" if has_words else f" {anyascii(character).strip(':').replace('_', ' ')} ")
        else:
            words.append(anyascii(character))
    return "".join(words)


def _read_capitals(text: str, known_word: Callable[[str], bool]) -> str:
    words = re.findall(r"[A-Za-z]{2,}", text)
    shouted = sum(word.isupper() for word in words)
    if len(words) >= 3 and shouted > 0.7 * len(words):
        return text.lower()

    def say(match: re.Match[str]) -> str:
        word, ending = match.group(1), match.group(2) or ""
        lower = word.lower()
        if lower == "ok":
            return f"okay{ending}"
        if lower in _CAPITALS_READ_AS_WORDS and word != "US":
            return lower + ending
        if len(word) > 5 or (len(word) >= 4 and known_word(lower)):
            return lower + ending
        return f" {' '.join(word)}{ending and chr(39) + 's'}"

    return _lower_words(_LETTER_A.sub("\N{BELL}", _CAPITALS.sub(say, text))).replace("\N{BELL}", "A")


def _lower_words(text: str) -> str:
    """Lower case for everything but single capitals, which are letter names; the article `A` becomes lower case."""
    text = re.sub(r"\b(?=\w*[A-Z])\w{2,}\b", lambda match: match.group().lower(), text)
    return re.sub(r"(?<![A-Z] )\bA\b(?= [a-z])", "a", text)


def _tidy(text: str) -> str:
    """Leaves only words and punctuation: brackets and lone dashes become pauses, anything else a space."""
    text = re.sub(r"\s*(?:[()\[\]{}]|(?<=\s)-+(?=\s)|\s--+\s*)\s*", " , ", text)
    text = re.sub(r"\.{2,}(?=\s*[a-z])", ", ", text)
    text = re.sub(r"\band/or\b", "and or", text)
    text = re.sub(r"(?<=\w)/(?=\w)", " slash ", text)
    text = re.sub(r"\b([CF])#", r"\1 sharp", text)
    text = re.sub(r"#(?=\w)", " hashtag ", text)
    text = re.sub(r"[^A-Za-z',.;:?!\s]", " ", text)
    text = re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<=\w)\.(?=\w)", " dot ", text)
    text = re.sub(r" ?[,.;:?!](?: ?[,.;:?!])* ?", _strongest_mark, text)
    return text.lstrip(" ,.;:?!").rstrip()


def _strongest_mark(match: re.Match[str]) -> str:
    for mark in "?!.;:":
        if mark in match.group():
            return f"{mark} "
    return ", "

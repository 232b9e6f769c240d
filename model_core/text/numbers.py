"""Numbers to American English words: money, times, dates, ordinals, units, fractions, phone numbers, years.

Each rule is a pattern and the words for a match. Rules run in order, and each replaces what it matches.
"""

import re
from collections.abc import Callable

from num2words import num2words

_MAX_COUNT_DIGITS = 15  # digits; longer numbers are read digit by digit

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH_PATTERN = "|".join(_MONTHS) + "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_CURRENCIES = {  # sign: one, many, one hundredth, hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "bn": "billion", "B": "billion"}
_UNITS = {  # one, many
    "km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"), "km²": ("square kilometer", "square kilometers"),
    "m²": ("square meter", "square meters"), "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "ft": ("foot", "feet"), "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"), "m": ("meter", "meters"), "s": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"), "min": ("minute", "minutes"), "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "Hz": ("hertz", "hertz"), "kW": ("kilowatt", "kilowatts"),
    "W": ("watt", "watts"), "V": ("volt", "volts"), "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
}  # fmt: skip
_FIGURE = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


def cardinal(figure: str) -> str:
    """`1,250.5` -> `one thousand two hundred fifty point five`; long or zero-led numbers digit by digit."""
    whole, _, decimals = figure.replace(",", "").partition(".")
    if len(whole) > _MAX_COUNT_DIGITS or (len(whole) > 1 and whole.startswith("0")):
        words = digits(whole)
    else:
        words = _american(num2words(int(whole or "0")))
    return f"{words} point {digits(decimals)}" if decimals else words


def digits(figure: str) -> str:
    return " ".join(num2words(int(digit)) for digit in figure if digit.isdigit())


def ordinal(figure: str) -> str:
    whole = figure.replace(",", "")
    return _american(num2words(int(whole), to="ordinal")) if len(whole) <= _MAX_COUNT_DIGITS else digits(whole)


def year(figure: str) -> str:
    return _american(num2words(int(figure), to="year"))


def _american(words: str) -> str:
    return str(words).replace(",", "").replace("-", " ").replace(" and ", " ")


def _money(match: re.Match[str]) -> str:
    sign, figure, scale = match.group(1), match.group(2), match.group(3)
    one, many, hundredth, hundredths = _CURRENCIES[sign]
    if scale:
        return f"{cardinal(figure)} {_SCALES.get(scale, scale)} {many}"
    whole, _, decimals = figure.replace(",", "").partition(".")
    if len(decimals) != 2:
        return f"{cardinal(figure)} {one if figure == '1' else many}"
    notes = f"{cardinal(whole)} {one if whole == '1' else many}"
    if decimals == "00":
        return notes
    coins = f"{cardinal(decimals.lstrip('0'))} {hundredth if decimals == '01' else hundredths}"
    return coins if whole == "0" else f"{notes} and {coins}"


def _time(match: re.Match[str]) -> str:
    hour, minute, half = match.group(1), match.group(2), match.group(3)
    if minute == "00":
        said = f"{cardinal(str(int(hour)))}{'' if half else ' o' + chr(39) + 'clock'}"
    elif minute.startswith("0"):
        said = f"{cardinal(str(int(hour)))} oh {cardinal(minute[1])}"
    else:
        said = f"{cardinal(str(int(hour)))} {cardinal(minute)}"
    return said + _half_of_day(match, half)


def _hour(match: re.Match[str]) -> str:
    return cardinal(match.group(1)) + _half_of_day(match, match.group(2))


def _half_of_day(match: re.Match[str], half: str | None) -> str:
    if not half:
        return ""
    ends = half.endswith(".") and not match.string[match.end() :].strip()
    return f" {half[0].upper()} M{'.' if ends else ''}"


def _iso_date(match: re.Match[str]) -> str:
    return f"{_MONTHS[int(match.group(2)) - 1]} {ordinal(match.group(3))}, {year(match.group(1))}"


def _version(match: re.Match[str]) -> str:
    return f" {' point '.join(map(cardinal, match.group().split('.')))} "


def _month_day(match: re.Match[str]) -> str:
    month = next(name for name in _MONTHS if name.startswith(match.group(1)[:3]))
    return f"{month} {ordinal(match.group(2))}"


def _telephone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match.group())
    return ("plus " if match.group().startswith("+") else "") + ", ".join(digits(group) for group in groups)


def _decade(match: re.Match[str]) -> str:
    words = year(match.group(1)) if len(match.group(1)) == 4 else cardinal(match.group(1))
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _fraction(match: re.Match[str]) -> str:
    above, below = int(match.group(1)), int(match.group(2))
    if not 0 < above < below <= 10:
        return f"{cardinal(match.group(1))} over {cardinal(match.group(2))}"
    part = {2: "half", 4: "quarter"}.get(below) or ordinal(str(below))
    return f"{cardinal(str(above))} {part}{'' if above == 1 else 's'}"


def _unit(match: re.Match[str]) -> str:
    one, many = _UNITS[match.group(2)]
    return f"{cardinal(match.group(1))} {one if match.group(1) == '1' else many}"


_RULES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (
        re.compile(rf"([$€£¥])\s?({_FIGURE})(?:\s?(hundred|thousand|million|billion|trillion|bn|[kKmMB])\b)?"),
        _money,
    ),
    (re.compile(r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b"), _iso_date),
    (re.compile(r"(?<=:\d\d)-(?=\d{1,2}:\d\d)"), lambda match: " to "),
    (re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)\b(?!:\d)(?:\s?([AaPp]\.?\s?[Mm]\b\.?))?"), _time),
    (re.compile(r"\b(1[0-2]|[1-9])\s?([AaPp]\.?[Mm]\b\.?)"), _hour),
    (re.compile(r"(?:\+\d{1,3}[ -])?(?:\(\d{3}\) ?|\b\d{3}-)\d{3}-\d{4}\b|\b\d{3}-\d{4}\b"), _telephone),
    (re.compile(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b"), lambda match: ordinal(match.group(1))),
    (re.compile(r"\b(\d{3}0|[1-9]0)'?s\b"), _decade),
    (
        re.compile(rf"\b({_MONTH_PATTERN})\.? (0?[1-9]|[12]\d|3[01])\b(?![,.]?\d|:)"),
        _month_day,
    ),
    (re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}"), _version),
    (re.compile(r"(?<=[\d%])-(?=\d)"), lambda match: " to "),
    (re.compile(r"(?<![\w.)])-(?=\.?\d)"), lambda match: "minus "),
    (re.compile(r"(?<=\d)(?:\s[*x]\s|[*x])(?=\d)"), lambda match: " times "),
    (re.compile(r"(?<=\d) -(?= \d)"), lambda match: " minus"),
    (re.compile(r"(?<![\d/])(\d{1,3})/(\d{1,3})(?![\d/])"), _fraction),
    (
        re.compile(rf"({_FIGURE})[ -]?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![\w²³])"),
        _unit,
    ),
    (re.compile(r"(?:#|\bNo\.\s?)(?=\d)"), lambda match: "number "),
    (re.compile(r"~(?=\d)"), lambda match: "about "),
    (re.compile(r"(?<![\w.,])(?:1[1-9]\d\d|20\d\d)(?![\w]|[.,]\d)"), lambda match: year(match.group())),
    (re.compile(r"(?<![\d.])\.(\d+)"), lambda match: f" point {digits(match.group(1))} "),
    (re.compile(_FIGURE), lambda match: f" {cardinal(match.group())} "),
]


def numbers_to_words(text: str) -> str:
    """`text` with every number in words; everything else stays."""
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return text

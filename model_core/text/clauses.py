"""Splits a growing text into clauses that can be spoken one after another.

The cuts depend on the text alone, not on how it arrived: any split into deltas gives the same clauses.
"""

# ruff: noqa: RUF001 - typographic marks and phonetic letters are the subject

import re

_FIRST_MIN, _FIRST_MAX = 12, 80  # characters; the first clause is short, so that audio starts early
_MIN, _MAX = 40, 200

# A punctuation mark, closing quotes and brackets, and the blank that rules out a number, abbreviation or URL.
_BOUNDARY = re.compile(
    r"(?P<sentence>[.?!…]+[\"'”’)\]*_]*(?=\s))|(?P<comma>[,;:](?=\s)|[ \t][–—-](?=\s)|[—，、；])|[。？！\n]"
)
# A full stop that does not end a sentence: after an abbreviation, an initial, or a number that opens a line.
_ABBREVIATED = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|sr|jr|gen|capt|lt|rev|gov|sen|vs|etc|approx|dept|inc|ltd|corp|mt|fig|vol|pp|cf"
    r"|jan|feb|apr|jun|jul|aug|sept?|oct|nov|dec)|\b(?-i:[A-HJ-Z])|\b(?:[a-z]\.)+[a-z]|^\d{1,3})\.$",
    re.IGNORECASE,
)


class ClauseSplitter:
    """Collects text deltas and returns complete clauses.

    The end of a sentence always ends a clause; a comma, semicolon, colon or dash does once the clause is long enough;
    text without any of them is cut at a blank before the maximum length.
    """

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def push(self, delta: str) -> list[str]:
        """Clauses that `delta` completed, with their punctuation, without surrounding blanks."""
        self._text = (self._text + delta).lstrip()
        clauses: list[str] = []
        while (cut := self._next_cut()) is not None:
            clause, self._text = self._text[:cut].strip(), self._text[cut:].lstrip()
            if clause:
                clauses.append(clause)
                self._first = False
        return clauses

    def finish(self) -> list[str]:
        """The clauses left when the text ends; resets the splitter."""
        clauses = self.push("\n")
        self._first = True
        return clauses

    def _next_cut(self) -> int | None:
        min_length, max_length = (_FIRST_MIN, _FIRST_MAX) if self._first else (_MIN, _MAX)
        for match in _BOUNDARY.finditer(self._text, 0, max_length + 1):
            if match.end() > max_length:
                break
            if self._closes(match, min_length):
                return match.end()
        if len(self._text) <= max_length:
            return None
        blank = max(self._text.rfind(" ", min_length, max_length), self._text.rfind("\t", min_length, max_length))
        return blank if blank > 0 else max_length

    def _closes(self, match: re.Match[str], min_length: int) -> bool:
        if match.group("comma"):
            return match.end() >= min_length
        if match.group("sentence"):
            return not _ABBREVIATED.search(self._text, max(0, match.start() - 20), match.start() + 1)
        return True

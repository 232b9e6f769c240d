"""Tokens that services and their callers share, in files that only they can read.

A file holds one token a line. The first is shown, all are taken: so a token is replaced without a refused call, by
adding the new one as the second line everywhere, moving it to the first, and removing the old one.

`python -m services.shared.rpc.tokens FILE ...` makes the files that are not there yet.
"""

import hashlib
import hmac
import secrets
import sys
from pathlib import Path

from services.shared import telemetry
from services.shared.private_file import PrivateFile

log = telemetry.get_logger(__name__)

MIN_CHARACTERS = 32


class SecretUnusable(RuntimeError):
    """A file of tokens or certificates is missing or not what it should be; the message names it."""


class TokenFile:
    """The tokens of a file, as it is now.

    Args:
        path: Of the file.

    Raises:
        SecretUnusable: It cannot be read, or holds no token. Later that changes nothing, and is logged: a file may be
            replaced in two steps.
    """

    def __init__(self, path: Path) -> None:
        self._file = PrivateFile(path)
        self._version = self._file.version()
        self._tokens = _read(path)

    def first(self) -> str:
        """The one to show."""
        self._refresh()
        return self._tokens[0]

    def accepts(self, given: str) -> bool:
        """Whether it is one of them, in a time that says nothing about them."""
        self._refresh()
        digest = hashlib.sha256(given.encode()).digest()
        found = [hmac.compare_digest(digest, hashlib.sha256(token.encode()).digest()) for token in self._tokens]
        return any(found)

    def _refresh(self) -> None:
        version = self._file.version()
        if version == self._version:
            return
        self._version = version
        try:
            self._tokens = _read(self._file.path)
            log.info("tokens read again", file=str(self._file.path), tokens=len(self._tokens))
        except SecretUnusable as error:
            log.warning("tokens stay as they were", reason=str(error))


def make_token_file(path: Path) -> Path:
    """A file with a new token, for its owner alone; one that is there stays as it is. Returns `path`."""
    file = PrivateFile(path)
    with file.locked():
        if file.version() is None:
            file.write(secrets.token_urlsafe(MIN_CHARACTERS) + "\n")
    return path


def _read(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnusable(f"{path} cannot be read: {type(error).__name__}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise SecretUnusable(f"{path} holds no token")
    if any(len(token) < MIN_CHARACTERS or not token.isprintable() for token in tokens):
        raise SecretUnusable(f"{path} holds a token of fewer than {MIN_CHARACTERS} printable characters")
    return tokens


def main() -> int:
    """Makes the files that the command line names. Returns the exit code."""
    if not sys.argv[1:]:
        print("usage: python -m services.shared.rpc.tokens FILE ...", file=sys.stderr)
        return 2
    for name in sys.argv[1:]:
        print(make_token_file(Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

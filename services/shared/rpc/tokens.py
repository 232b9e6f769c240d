"""Tokens that services and their callers share, in files that only their owner can read.

A file holds one token per line. Callers send the first; services accept all of them. To rotate a token without refusing
a call, append the new one everywhere, move it to the first line everywhere, then remove the old one.

`python -m services.shared.rpc.tokens FILE ...` creates the files that do not exist yet.
"""

import hashlib
import hmac
import secrets
import sys
from pathlib import Path

from services.shared.private_files import PrivateFile
from services.shared.reloading_files import ReloadingFiles, SecretFileError

MIN_CHARACTERS = 32


class TokenFile:
    """The tokens in a file, as it is now.

    Raises:
        SecretFileError: The file cannot be read or holds no token. Later changes that are invalid are logged, and the
            previous tokens stay in use.
    """

    def __init__(self, path: Path) -> None:
        self._file = ReloadingFiles(path, read=lambda: _read(path))

    def first(self) -> str:
        """The token to send."""
        return self._file.current()[0]

    def accepts(self, token: str) -> bool:
        """Whether the file holds `token`; compares in constant time."""
        digest = hashlib.sha256(token.encode()).digest()
        found = [hmac.compare_digest(digest, hashlib.sha256(each.encode()).digest()) for each in self._file.current()]
        return any(found)


def make_token_file(path: Path) -> Path:
    """Creates a file of mode 0600 with a new token, unless it exists. Returns `path`."""
    file = PrivateFile(path)
    with file.locked():
        if file.version() is None:
            file.write(secrets.token_urlsafe(MIN_CHARACTERS) + "\n")
    return path


def _read(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretFileError(f"{path} cannot be read: {type(error).__name__}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise SecretFileError(f"{path} holds no token")
    if any(len(token) < MIN_CHARACTERS or not token.isprintable() for token in tokens):
        raise SecretFileError(f"{path} holds a token of fewer than {MIN_CHARACTERS} printable characters")
    return tokens


def main() -> int:
    """Creates the files named on the command line. Returns the exit code."""
    if not sys.argv[1:]:
        print("usage: python -m services.shared.rpc.tokens FILE ...", file=sys.stderr)
        return 2
    for name in sys.argv[1:]:
        print(make_token_file(Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

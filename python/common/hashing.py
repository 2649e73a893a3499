"""The one way a file is hashed."""

import hashlib
from pathlib import Path


def sha256_of(path: Path | str) -> str:
    """Return the sha256 of a file's raw bytes as hex, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a file of settings or users holds as text."""

from __future__ import annotations

import codecs


def text_of(content: bytes) -> str:
    """UTF-8 text without the byte order mark that some editors write. UnicodeDecodeError;
    ValueError says in words what it is instead."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16; save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8).decode()

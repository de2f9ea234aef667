"""What can go wrong. The texts are those of the command line."""

from __future__ import annotations

import errno as numbers
import os


class Error(Exception):
    """Anything that goes wrong; ``str(error)`` names the file or thing, what was expected and what was found."""

    #: What went wrong, in one word that does not change: io, format, checksum, signature, output_exists, tokenizer,
    #: too_long, input, library_not_found, device, session, queue_full, cancelled, deadline_passed, memory_limit,
    #: setting, forked; closed for a classifier that was closed; panic for a fault of nimbert's own.
    kind: str = "error"


class FileError(Error, OSError):
    """A file cannot be read or written (io)."""


class FileMissingError(FileError, FileNotFoundError):
    """A file is not there (io)."""


class BundleError(Error, ValueError):
    """A file is not what it should be (format), is damaged (checksum), or not signed by whom it should (signature)."""


class SettingError(Error, ValueError):
    """An option that there is not, or a value that it cannot have (setting)."""


class TextError(Error, ValueError):
    """What was given is no text, or none that the classifier reads (input, tokenizer, too_long)."""


class CancelledError(Error):
    """The call was cancelled (cancelled)."""


class DeadlineError(Error, TimeoutError):
    """The call's time was over (deadline_passed)."""


class ForkedError(Error):
    """The classifier was opened before a fork, and belongs to the parent (forked)."""


_CLASSES: dict[str, type[Error]] = {
    "io": FileError,
    "format": BundleError,
    "checksum": BundleError,
    "signature": BundleError,
    "setting": SettingError,
    "input": TextError,
    "tokenizer": TextError,
    "too_long": TextError,
    "cancelled": CancelledError,
    "deadline_passed": DeadlineError,
    "forked": ForkedError,
}


def make(kind: str, message: str, errno: int | None = None) -> Error:
    """The error of a kind; ``errno`` is the operating system's number, if it has one."""
    is_missing = errno == numbers.ENOENT
    error = (FileMissingError if is_missing else _CLASSES.get(kind, Error))(message)
    error.kind = kind
    # Windows numbers its errors otherwise.
    if errno is not None and isinstance(error, OSError) and os.name == "posix":
        error.errno = errno
    return error

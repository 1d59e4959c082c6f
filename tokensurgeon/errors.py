"""The few exceptions that need a name. Everything else is a built-in exception."""

from __future__ import annotations

__all__ = ["InputError", "MissingDependencyError", "VerificationError", "gave_up"]


class InputError(ValueError):
    """The user's input cannot be used. The message gives the value, the limit and the remedy."""


class VerificationError(RuntimeError):
    """A written model breaks an invariant. It was not moved to its final place."""


class MissingDependencyError(ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Name the package, the extra that brings it and what it is needed for."""
        super().__init__(f"{purpose} needs {package}: pip install 'tokensurgeon[{extra}]'")
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """Pickle what it was made from, not the message: it must come out of a worker process."""
        return type(self), (self.package, self.extra, self.purpose)


def gave_up(error: BaseException) -> bool:
    """Whether an error is how tokenizers refuses an input: a bare ``Exception``, or a panic of its Rust code.

    A panic is a ``BaseException`` whose class no module exports.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"

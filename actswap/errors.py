"""Every error of actswap: what happened, where, why, and the call or command that would work."""

from __future__ import annotations


class ActswapError(Exception):
    """Base of all errors raised on purpose; the CLI prints its text and exits with `exit_code`.

    Args:
        what: one sentence, what could not be done.
        where: the site, module, file or line.
        why: the cause.
        fix: the corrected call or command.
        add: options that make the user's own command work; the CLI prints that command with them in place of `fix`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", add: str = "") -> None:
        self.what, self.where, self.why, self.fix, self.add = what, where, why, fix, add
        super().__init__(self.text(fix))

    def text(self, fix: str) -> str:
        """Return the message with another correction in the place of `fix`."""
        parts = (("where", self.where), ("why", self.why), ("try", fix))
        return "\n".join([self.what] + [f"  {key}: {text}" for key, text in parts if text])


def first_line(error: BaseException, limit: int = 300) -> str:
    r"""Return the type of an exception and the first line of its message, if it has one, in at most `limit` characters.

    Examples:
        >>> first_line(ValueError("too many\nvalues"))
        'ValueError: too many'
        >>> first_line(AssertionError())
        'AssertionError'
    """
    kind = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a message that cannot be made
        lines = []
    line = f"{kind}: {lines[0]}" if lines else kind
    return line if len(line) <= limit else line[: limit - 4].rpartition(" ")[0] + " ..."


class UsageError(ActswapError):
    """The request itself is wrong: an option, an activation name, an input."""


class SelectionError(ActswapError):
    """A selector matched no site."""


class LoadError(ActswapError):
    """The model file cannot be read, or is refused."""

    exit_code = 3


class CaptureError(ActswapError):
    """The model cannot be run or traced on the given inputs."""

    exit_code = 3


class VerificationError(ActswapError):
    """Two models that should agree do not."""

    exit_code = 1


class DivergenceError(ActswapError):
    """A fine-tuning run diverged: its loss, an activation or a parameter exploded or is not finite."""

    exit_code = 1


class StartError(ActswapError):
    """The asked-for start does not exist for this pair of source and target."""


class FileError(ActswapError):
    """A file cannot be written, or would be overwritten."""

    exit_code = 2


class ExportError(ActswapError):
    """The model cannot be exported, or the exported file does not agree with it."""

    exit_code = 4

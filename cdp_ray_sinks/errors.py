"""Errors whose type tells the caller what to do.

Every class takes positional arguments of plain data and forwards them to
`Exception`, because an error must survive pickling between processes.
"""

from __future__ import annotations


class CdpError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(CdpError):
    """The configuration can't work: refuse to start and show the text."""


class SinkError(CdpError):
    """A sink could not do what it was asked."""


class TransientError(SinkError):
    """Try again: the same bytes may be accepted later.

    `retry_after_ms` is what the destination asked for, 0 when it did not say.
    """

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message, retry_after_ms)
        self.message = message
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return self.message


def as_transient(error: Exception) -> TransientError:
    """The error itself, or what stands for one that nobody foresaw: its type and text."""
    if isinstance(error, TransientError):
        return error
    is_ours = isinstance(error, SinkError)
    return TransientError(str(error) if is_ours else f"{type(error).__name__}: {error}")


class TerminalError(SinkError):
    """Trying again can't help: the batch goes to the dead letters."""


class DroppedError(SinkError):
    """The batch is let go of, as configured; it is counted and nobody keeps it."""


class PartialWriteError(SinkError):
    """Some messages of one batch can never be accepted; the rest of it was.

    `failed_messages` are 0-based places in the batch, `reasons` one text each.
    """

    def __init__(
        self,
        batch_id: tuple[bytes, int, int],
        failed_messages: tuple[int, ...],
        reasons: tuple[str, ...],
    ) -> None:
        super().__init__(batch_id, failed_messages, reasons)
        self.batch_id = batch_id
        self.failed_messages = failed_messages
        self.reasons = reasons

    def __str__(self) -> str:
        return f"{len(self.failed_messages)} messages refused: {'; '.join(self.reasons[:3])}"


class PartialFlushError(SinkError):
    """The batches of some workspaces are not durable; all others are.

    `failures` holds (workspace id, the error's text) pairs. The sink keeps those
    batches: the next `flush` writes the same bytes again.
    """

    def __init__(self, failures: tuple[tuple[int, str], ...]) -> None:
        super().__init__(failures)
        self.failures = failures

    def __str__(self) -> str:
        return "; ".join(f"workspace {w}: {text}" for w, text in self.failures[:5])


class RefusedMessagesError(SinkError):
    """All that was accepted is durable but for some messages, which never will be.

    `refusals` holds (batch id, message, entry, reason): the message's 0-based place in the
    batch, and that of the refused entry among the batch's entries, or None for the whole
    message. Raised again until the sink is told that they are kept elsewhere.
    """

    def __init__(
        self, refusals: tuple[tuple[tuple[bytes, int, int], int, int | None, str], ...]
    ) -> None:
        super().__init__(refusals)
        self.refusals = refusals

    def __str__(self) -> str:
        reasons = "; ".join(dict.fromkeys(reason for *_, reason in self.refusals[:3]))
        return f"{len(self.refusals)} entries refused: {reasons}"


class FencedError(SinkError):
    """A newer writer owns this lane: acknowledge nothing and leave."""


class BatchConflictError(SinkError):
    """A batch id came back with another checksum: never acknowledged."""


class SequenceGapError(SinkError):
    """A push came out of order: ask `hello` and resend what is unacknowledged."""


class QueueFullError(SinkError):
    """A bounded queue is full; nothing was taken."""


class MalformedMessageError(CdpError):
    """Bytes that are not a valid message. `offset` is where the check failed."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} at byte {self.offset}"


class CorruptSegmentError(CdpError):
    """A segment or its index is damaged at `offset` bytes into `path`."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(path, offset, reason)
        self.path = path
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} at byte {self.offset}"


class DrainTimeoutError(CdpError):
    """The deadline passed with batches still unsettled; `unsettled` says how many."""

    def __init__(self, message: str, unsettled: int) -> None:
        super().__init__(message, unsettled)
        self.message = message
        self.unsettled = unsettled

    def __str__(self) -> str:
        return self.message

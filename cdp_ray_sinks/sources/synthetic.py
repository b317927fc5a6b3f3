"""Options of the synthetic source; `synthetic_source` is what does the work.

Apart, because a check of a configuration must not wait for compiled kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from cdp_ray_sinks.sources.base import SourceConfig, SourceContext

if TYPE_CHECKING:
    from cdp_ray_sinks.sources.synthetic_source import SyntheticSource

EVENTS_PER_MESSAGE: Final = {"tell": 500, "small": 10, "single": 1}


class SyntheticConfig(SourceConfig):
    """Options of the synthetic source.

    Each payload begins `{"n":<number>`; the numbers run from `start_number`, over all
    workspaces and kinds together, each once. Shapes are events per message: `tell` 500,
    `small` 10, `single` 1. The shares are those of IDENTIFY and CONTEXT events, and of
    log entries, the rest are TRACK events. `events` None goes on until stopped.
    """

    survives_restart: ClassVar[bool] = False
    """It would begin again at its first number, and all that was sent would be there twice."""

    type: Literal["synthetic"] = "synthetic"
    events: int | None = Field(default=None, ge=0, le=2**48)
    shape: Literal["tell", "small", "single"] = "tell"
    workspaces: int = Field(default=1, ge=1, le=1_000_000)
    seed: int = Field(default=1, ge=0, lt=2**63)
    device_count: int = Field(default=1000, ge=1, le=10_000_000)
    name_count: int = Field(default=25, ge=1, le=1000)
    batch_events: int = Field(default=50_000, ge=1, le=1_000_000)
    batch_bytes_max: int = Field(default=32 * 1024 * 1024, ge=64 * 1024)
    rate_events_per_s: float | None = Field(default=None, gt=0)
    identify_share: float = Field(default=0.0, ge=0, le=1)
    context_share: float = Field(default=0.0, ge=0, le=1)
    log_share: float = Field(default=0.0, ge=0, le=1)
    start_number: int = Field(default=0, ge=0, le=2**48)

    @model_validator(mode="after")
    def _shares_fit(self) -> SyntheticConfig:
        if self.identify_share + self.context_share > 1:
            raise ValueError("identify_share and context_share together must not be above 1")
        return self

    @property
    def events_per_message(self) -> int:
        """How many events one message holds, the last of a batch aside."""
        return EVENTS_PER_MESSAGE[self.shape]

    def going_on_after(self, events: int) -> Self:
        """From the next number on, and only as many as are left."""
        left = None if self.events is None else max(0, self.events - events)
        return self.model_copy(update={"start_number": self.start_number + events, "events": left})

    def build(self, context: SourceContext) -> SyntheticSource:
        """A source that begins to produce when it is run."""
        from cdp_ray_sinks.sources.synthetic_source import SyntheticSource

        return SyntheticSource(self, context)


def synthetic_frames(config: SyntheticConfig, api_key: bytes, now_ms: int) -> Iterator[memoryview]:
    """The same events as frames for a TCP source, a batch's worth at a time.

    Each piece is good until the next is taken. `now_ms` is when they happened; on the wire
    the key says whose they are. Raises ValueError for an endless config or a key that is
    not 16 bytes.
    """
    from cdp_ray_sinks.sources import synthetic_source

    return synthetic_source.frames_of(config, api_key, now_ms)

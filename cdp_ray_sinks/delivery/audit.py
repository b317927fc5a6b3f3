"""Whether each destination holds what the accounts say it was given.

A sink is right if what it holds of the batches of known producers lies between what must be
there and what may be there, for each workspace and hour. The two differ only by what nobody can
know: batches that a spool let go of while they were on their way, and, while a pipeline runs,
whatever moved meanwhile. A batch of which no answer is known is looked for by its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.account_book import SPOOL_PREFIX
from cdp_ray_sinks.delivery.account_files import Accounts, Counts, read_accounts
from cdp_ray_sinks.delivery.account_records import Taken
from cdp_ray_sinks.delivery.push import (
    DEAD_LETTERED,
    DEAD_LETTERED_LATER,
    DROPPED_FULL,
    DROPPED_OLD,
    DURABLE,
    REFUSED_LATER,
    SPOOLED,
)
from cdp_ray_sinks.delivery.spool_segment import left_in_spool
from cdp_ray_sinks.files.landed import Count, Landed, Place, TableCount, count_segments, wanted_of
from cdp_ray_sinks.files.lane_folders import is_of_lane, lane_folders
from cdp_ray_sinks.sinks.base import SinkConfig

Kind: TypeAlias = Literal["missing", "too many", "not accounted for", "dead letters missing"]

SPOOL_SUFFIXES: Final = ("-spool", "-refused")
"""Of the dead letters that a sink's spool has beside the sink's own."""
REPLAYING: Final = ".replaying"
REPLAY_PREFIX: Final = "deadletters/"
_LATER: Final = (DEAD_LETTERED_LATER, REFUSED_LATER, DROPPED_FULL, DROPPED_OLD)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a pipeline's state is."""

    accounts: Path
    spool: Path
    dead_letters: Path
    sinks: Path


@dataclass(frozen=True, slots=True)
class Difference:
    """A workspace and hour in which a destination is not as it was accounted for."""

    kind: Kind
    place: Place
    accounted: Count
    found: Count

    @property
    def by(self) -> Count:
        """How much more was found, or less, as positive numbers where possible."""
        count = Count()
        count.add_all(self.found)
        count.add_all(self.accounted, -1)
        sign = -1 if self.kind in ("missing", "dead letters missing") else 1
        return Count(sign * count.batches, sign * count.messages, sign * count.events)


@dataclass(slots=True)
class SinkAudit:
    """One sink. `outcomes` are the accounts; `found` is None if nothing is kept to be counted.

    `answerless` are those found there of the batches that no answer is known of,
    `left_in_spool` what waits. `tables` are those of a database, `unread` why it did not answer.
    """

    name: str
    type: str
    outcomes: dict[str, Count] = field(default_factory=dict)
    expected: Count = field(default_factory=Count)
    found: Count | None = None
    answerless: Count = field(default_factory=Count)
    left_in_spool: Count = field(default_factory=Count)
    differences: list[Difference] = field(default_factory=list)
    tables: list[TableCount] = field(default_factory=list)
    unread: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it could be looked at, and nothing differs."""
        wrong = any(table.missing or table.too_many for table in self.tables)
        return not self.differences and not wrong and self.unread is None


@dataclass(slots=True)
class Audit:
    """All of them. `in_flight` are batches of which no answer is known, by workspace and hour.

    `is_moving` if accounts changed meanwhile. `strangers` are sinks with accounts that were
    not asked for.
    """

    accepted: Count = field(default_factory=Count)
    in_flight: Counts = field(default_factory=dict)
    sinks: list[SinkAudit] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    kept_from_hour: int | None = None
    is_moving: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return all(sink.ok for sink in self.sinks) and not self.damaged


def audit(sinks: Mapping[str, SinkConfig], folders: Folders) -> Audit:
    """Read the accounts and the destinations. Raises OSError, ConfigError."""
    before = read_accounts(folders.accounts)
    counted = [_count(name, config, folders, before) for name, config in sinks.items()]
    after = read_accounts(folders.accounts)
    found = Audit(
        accepted=_accepted(after),
        in_flight=_by_place(after.open.values()),
        strangers=sorted(set(after.settled) - set(sinks)),
        damaged=after.damaged,
        kept_from_hour=after.kept_from_hour,
        is_moving=before != after,
    )
    for one in counted:
        found.sinks.append(_compare(one, before, after))
        _compare_dead_letters(found.sinks[-1], one.dead_letters, before, after)
    return found


def sum_of(counts: Iterable[Count]) -> Count:
    """All of them together."""
    total = Count()
    for count in counts:
        total.add_all(count)
    return total


@dataclass(slots=True)
class _Counted:
    """What was read of one sink and of what lies beside it."""

    name: str
    type: str
    landed: Landed | None
    left: list[BatchHeader]
    dead_letters: Counts


def _count(name: str, config: SinkConfig, folders: Folders, accounts: Accounts) -> _Counted:
    left = left_in_spool(folders.spool / name)
    wanted = wanted_of([*accounts.open, *(header.batch_id for header in left)])
    landed = config.count_landed(wanted, folders.sinks / name)
    dead_letters: Counts = {}
    for archive in _dead_letter_archives(name, folders.dead_letters):
        for origin, count in count_segments(archive, {}).counts.items():
            place = Place(origin.workspace_id, origin.hour)
            dead_letters.setdefault(place, Count()).add_all(count)
    return _Counted(name, config.type, landed, left, dead_letters)


def _dead_letter_archives(name: str, folder: Path) -> Iterable[Path]:
    """Of all the sink's lanes, and of its spool; also those that are being replayed."""
    for base in (folder, folder / REPLAYING):
        yield from lane_folders(base / name)
        yield from (base / f"{name}{suffix}" for suffix in SPOOL_SUFFIXES)


def _compare(counted: _Counted, before: Accounts, after: Accounts) -> SinkAudit:
    name, landed = counted.name, counted.landed
    result = SinkAudit(name, counted.type)
    for outcome, counts in after.settled.get(name, {}).items():
        result.outcomes[outcome] = sum_of(counts.values())
    result.left_in_spool = sum_of(_by_place(map(Taken.of, counted.left)).values())
    if landed is None:
        return result
    answerless = _by_place(before.open[each] for each in landed.found if each in before.open)
    waiting = _by_place(
        Taken.of(header)
        for header in counted.left
        if header.batch_id not in landed.found and header.batch_id not in before.open
    )
    low = before.of(name, DURABLE, SPOOLED)
    _add(low, after.of(name, *_LATER), -1)
    _add(low, waiting, -1)
    _add(low, answerless)
    high = after.of(name, DURABLE, SPOOLED)
    if before == after:
        high = {place: Count(c.batches, c.messages, c.events) for place, c in low.items()}
        _add(high, after.of(name, DROPPED_FULL, DROPPED_OLD))
    else:
        _add(high, _by_place(after.open.values()))
    known, unknown = _known_and_not(landed, after)
    result.expected, result.found = sum_of(low.values()), sum_of(known.values())
    result.answerless = sum_of(answerless.values())
    result.tables, result.unread = landed.tables, landed.unread
    result.problems = landed.problems
    for place in sorted({*low, *high, *known}):
        if _is_audited(place, after, landed):
            span = low.get(place, Count()), high.get(place, Count())
            found = known.get(place, Count())
            if _less(found, span[0], landed):
                result.differences.append(Difference("missing", place, span[0], found))
            elif _less(span[1], found, landed):
                result.differences.append(Difference("too many", place, span[1], found))
    for place in sorted(place for place in unknown if _is_audited(place, after, landed)):
        result.differences.append(Difference("not accounted for", place, Count(), unknown[place]))
    return result


def _compare_dead_letters(
    result: SinkAudit, kept: Counts, before: Accounts, after: Accounts
) -> None:
    """Those of batches refused in part are there besides, so there may be more."""
    accounted = before.of(result.name, DEAD_LETTERED, DEAD_LETTERED_LATER, REFUSED_LATER)
    from_spool = [f"{result.name}{suffix}" for suffix in SPOOL_SUFFIXES]
    for producer, counts in after.taken.items():
        archive = producer.removeprefix(REPLAY_PREFIX)
        if archive != producer and (is_of_lane(archive, result.name) or archive in from_spool):
            _add(accounted, counts, -1)
    for place, count in sorted(accounted.items()):
        found = kept.get(place, Count())
        if _is_audited(place, after) and found.messages < count.messages:
            result.differences.append(Difference("dead letters missing", place, count, found))


def _less(one: Count, other: Count, landed: Landed) -> bool:
    """Whether there is less of anything that leaves a trace."""
    if landed.only_events:
        return one.events < other.events
    return one.events < other.events or one.messages < other.messages or one.batches < other.batches


def _is_audited(place: Place, accounts: Accounts, landed: Landed | None = None) -> bool:
    kept_from = [accounts.kept_from_hour, None if landed is None else landed.kept_from_hour]
    return all(hour is None or place.hour >= hour for hour in kept_from)


def _known_and_not(landed: Landed, accounts: Accounts) -> tuple[Counts, Counts]:
    """What is there of producers that have accounts, and of others."""
    known: Counts = {}
    unknown: Counts = {}
    for origin, count in landed.counts.items():
        is_known = landed.is_all_known or (origin.producer, origin.epoch) in accounts.epochs
        place = Place(origin.workspace_id, origin.hour)
        (known if is_known else unknown).setdefault(place, Count()).add_all(count)
    return known, unknown


def _by_place(taken: Iterable[Taken]) -> Counts:
    found: Counts = {}
    for each in taken:
        place = Place(each.workspace_id, each.hour)
        found.setdefault(place, Count()).add(1, each.messages, each.events)
    return found


def _add(counts: Counts, more: Counts, times: int = 1) -> None:
    for place, count in more.items():
        counts.setdefault(place, Count()).add_all(count, times)


def _accepted(accounts: Accounts) -> Count:
    return sum_of(
        sum_of(counts.values())
        for name, counts in accounts.taken.items()
        if not name.startswith(SPOOL_PREFIX)
    )

"""What a pipeline is made of: TOML in, checked models out.

Relative paths in a configuration are relative to the working directory, as they would
be on the command line; they are made absolute when the configuration is read, because
actors have working directories of their own.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    field_validator,
    model_validator,
)

from cdp_ray_sinks.batch.enums import EventType, SchemaType
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placeholders import (
    anchored,
    has_placeholder,
    literal_secrets_in,
    paths_in,
)
from cdp_ray_sinks.routing.table import Match, RoutingTable, Rule, event_type_mask
from cdp_ray_sinks.sinks import registry as sink_registry
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sinks.custom import is_custom
from cdp_ray_sinks.sources import registry as source_registry
from cdp_ray_sinks.sources.base import SourceConfig
from cdp_ray_sinks.validation import config_error, did_you_mean, key_text, shown, validated

MIB: Final = 1024 * 1024
CONFIG_BYTES_MAX: Final = MIB
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# tomllib needs time and memory by the square of a dotted key's parts.
_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}"""
)

Name = Annotated[str, Field(pattern=_NAME)]
Whole = Annotated[int, Field(strict=True, le=2**50)]


class Section(BaseModel):
    """A table of the file: keys it does not know are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PipelineSection(Section):
    """`[pipeline]`: what it is called, and where it keeps what must outlive it."""

    name: Name = "default"
    state_dir: Path | None = None


class RaySection(Section):
    """`[ray]`: which cluster, and how its actors' logs are written.

    Without `address` a private one is started and stopped.
    """

    address: str | None = Field(default=None, min_length=1)
    object_store_bytes: Whole | None = Field(default=None, ge=80 * MIB)
    namespace: Name = "cdp_ray_sinks"
    logs: Literal["text", "json"] = "text"


class DeliveryConfig(Section):
    """`[delivery]`: the bounds of what is under way.

    `window_bytes` and `window_batches` bound what one producer holds unsettled;
    `group_batches_max` and `group_bytes_max` one call, where small batches that share an
    object count as one; a lone batch of at most `inline_bytes_max` rides inside the call
    instead of the object store.
    `max_chain_actors` None means max(4, 2 x cores) per node. A chain actor to which nothing
    came for `chain_idle_s` seals its files and is taken down, all but one. Accounts of batches
    are kept for `accounts_days_max` days.
    """

    window_bytes: Whole = Field(default=256 * MIB, ge=MIB)
    window_batches: Whole = Field(default=4096, ge=1)
    group_batches_max: Whole = Field(default=32, ge=1, le=1024)
    group_bytes_max: Whole = Field(default=256 * MIB, ge=MIB)
    inline_bytes_max: Whole = Field(default=65_536, ge=0, le=MIB)
    drain_deadline_s: float = Field(default=60, gt=0, allow_inf_nan=False)
    populate_object_store: bool = True
    max_chain_actors: Whole | None = Field(default=None, ge=1)
    chain_idle_s: float = Field(default=900, gt=0, allow_inf_nan=False)
    accounts_days_max: Whole = Field(default=90, ge=1, le=36_500)


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _numbers(kind: type[EventType] | type[SchemaType], value: object) -> list[int]:
    """Names or numbers of an enum, one or a list, as numbers."""
    found = []
    for one in _as_list(value):  # type: ignore[attr-defined]
        names = {member.name.lower(): int(member) for member in kind}
        if isinstance(one, str) and one.lower() in names:
            found.append(names[one.lower()])
        elif isinstance(one, kind):
            found.append(int(one))
        else:
            raise ValueError(f"{shown(one)} is none of {', '.join(names)}")
    return found


Several = BeforeValidator(_as_list)


class MatchConfig(Section):
    """The conditions of a rule: each one value or a list of which one must hold; all
    conditions that are given must hold."""

    source: Annotated[tuple[Name, ...], Several] = ()
    schema_type: tuple[int, ...] = Field(default=(), alias="schema")
    workspace: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1, lt=2**32)], ...], Several
    ] = ()
    event_type: tuple[int, ...] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("schema_type", mode="before")
    @classmethod
    def _schemas(cls, value: object) -> list[int]:
        return _numbers(SchemaType, value)

    @field_validator("event_type", mode="before")
    @classmethod
    def _event_types(cls, value: object) -> list[int]:
        return _numbers(EventType, value)

    def to_match(self) -> Match:
        """The same as the routing table wants it."""
        return Match(
            frozenset(self.source),
            frozenset(self.schema_type),
            frozenset(self.workspace),
            event_type_mask(EventType(number) for number in self.event_type),
        )


class RuleConfig(Section):
    """`[[routing.rules]]`: batches that match go to these sinks and no others."""

    match: MatchConfig
    sinks: tuple[str, ...] = Field(min_length=1)


class RoutingConfig(Section):
    """`[routing]`: the first rule that matches decides; `default` when none does."""

    default: tuple[str, ...] = Field(min_length=1)
    rules: tuple[RuleConfig, ...] = ()


class PipelineConfig(Section):
    """A whole pipeline.

    Sources and sinks may be given as config models or as plain tables with a `type`.
    Without `routing` every sink gets everything. Raises ConfigError when a table is not
    valid, no sink is enabled, or a rule names a sink that is not there.
    """

    pipeline: PipelineSection = PipelineSection()
    ray: RaySection = RaySection()
    sources: dict[Name, InstanceOf[SourceConfig]] = Field(default_factory=dict)
    sinks: dict[Name, InstanceOf[SinkConfig]] = Field(default_factory=dict)
    routing: RoutingConfig | None = None
    delivery: DeliveryConfig = DeliveryConfig()

    def __init__(self, /, **sections: Any) -> None:
        """Check and keep the sections."""
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise config_error(PipelineConfig, error, "") from None

    @field_validator("sources", mode="before")
    @classmethod
    def _load_sources(cls, value: object) -> object:
        return _load_each("sources", value, source_registry.SOURCES, SourceConfig)

    @field_validator("sinks", mode="before")
    @classmethod
    def _load_sinks(cls, value: object) -> object:
        return _load_each("sinks", value, sink_registry.SINKS, SinkConfig)

    @model_validator(mode="after")
    def _check_routes(self) -> PipelineConfig:
        if not self.active_sinks():
            raise ConfigError("sinks: at least one enabled sink is needed, [sinks.NAME] type = …")
        for name, sink in self.active_sinks().items():
            if not sink.required and sink.on_full == "block":
                raise ConfigError(
                    f"sinks.{name}.on_full = 'block': a sink with required = false must not hold "
                    "others up; set on_full = 'spool' or 'drop'"
                )
        owners: dict[str, str] = {}
        for name, sink in self.active_sinks().items():
            for folder in sink.owned_folders():
                if owners.setdefault(folder, name) != name:
                    raise ConfigError(
                        f"sinks.{name}.path: sinks.{owners[folder]} writes to {folder} too; "
                        "give each a folder of its own"
                    )
        routing = self.routing
        if routing is not None:
            _check_sink_names("routing.default", routing.default, self.sinks)
            for place, rule in enumerate(routing.rules):
                _check_sink_names(f"routing.rules[{place}].sinks", rule.sinks, self.sinks)
        return self

    def state_dir(self) -> Path:
        """Where what must outlive the pipeline is kept, absolute; see `pipeline.state_dir`."""
        if self.pipeline.state_dir is not None:
            return self.pipeline.state_dir.expanduser().absolute()
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return Path(base).absolute() / "cdp_ray_sinks" / self.pipeline.name

    def dead_letter_dir(self) -> Path:
        """The folder with an archive for each sink that refused something."""
        return self.state_dir() / "dead_letters"

    def accounts_dir(self) -> Path:
        """The folder with the accounts of what was taken and what became of it."""
        return self.state_dir() / "accounts"

    def spool_dir(self) -> Path:
        """The folder with a spool for each sink that has one."""
        return self.state_dir() / "spool"

    def sinks_dir(self) -> Path:
        """The folder with a folder for each sink that has to remember something."""
        return self.state_dir() / "sinks"

    def active_sinks(self) -> dict[str, SinkConfig]:
        """The sinks that are enabled, in the order of the file."""
        return {name: sink for name, sink in self.sinks.items() if sink.enabled}

    def active_sources(self) -> dict[str, SourceConfig]:
        """The sources that are enabled, in the order of the file."""
        return {name: source for name, source in self.sources.items() if source.enabled}

    def routing_table(self) -> RoutingTable:
        """The rules over the enabled sinks; a disabled sink is left out of every rule."""
        active = self.active_sinks()

        def enabled(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for name in dict.fromkeys(names) if name in active)

        if self.routing is None:
            return RoutingTable(tuple(active))
        rules = [Rule(rule.match.to_match(), enabled(rule.sinks)) for rule in self.routing.rules]
        return RoutingTable(enabled(self.routing.default), rules)

    def warnings(self) -> list[str]:
        """What is allowed and yet probably not meant, one sentence each."""
        table = self.routing_table()
        reached = table.reached()
        found = [
            f"sinks.{name}: no rule sends anything there, and routing.default does not either"
            for name in self.active_sinks()
            if name not in reached
        ]
        found += [
            f"sources.{name}.{key} = {str(path)!r}: no such file on this machine"
            for name, source in self.active_sources().items()
            for key, path in paths_in(source).items()
            if not has_placeholder(str(path)) and not path.exists()
        ]
        for name, source in self.active_sources().items():
            found += [f"sources.{name}.{text}" for text in source.warnings()]
        for name, sink in self.active_sinks().items():
            found += [f"sinks.{name}.{text}" for text in sink.warnings()]
        found += [
            f"{kind}.{name}.{key}: a secret that is written out travels in an actor's arguments, "
            "where whoever reaches the cluster finds it; write ${NAME} or ${file:PATH}"
            for kind, sections in (
                ("sources", self.active_sources()),
                ("sinks", self.active_sinks()),
            )
            for name, section in sections.items()
            for key in literal_secrets_in(section)
        ]
        if not table.default:
            found.append("routing.default: all its sinks are disabled; such batches are dropped")
        for place, rule in enumerate(table.rules):
            where = f"routing.rules[{place}]"
            if not rule.sinks:
                found.append(f"{where}: all its sinks are disabled; what matches is dropped")
            for name in rule.sinks:
                taken = self.sinks[name].schemas
                if taken and rule.match.schemas and not taken & rule.match.schemas:
                    kinds = ", ".join(SchemaType(kind).name.lower() for kind in sorted(taken))
                    found.append(f"{where}.sinks: {name!r} keeps only {kinds}; nothing of this")
            for away in sorted(rule.match.sources - self.active_sources().keys()):
                hint = did_you_mean(away, self.active_sources())
                found.append(f"{where}.match.source = {away!r}: no such source enabled{hint}")
            if rule.match.is_everything and place + 1 < len(table.rules):
                found.append(f"{where}: matches everything, so no later rule is ever asked")
                break
        return found


def _load_each(
    section: str, value: object, registry: Mapping[str, str], base: type[BaseModel]
) -> object:
    """Each table of `sources` or `sinks` as the config model of its type."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{section} = {shown(value)}: write one table each, [{section}.NAME]")
    loaded = {}
    for name, options in value.items():
        where = f"{section}.{key_text(str(name))}"
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise ConfigError(f"{where}: a name is 1-64 letters, digits or any of _ . -")
        if isinstance(options, base):
            loaded[name] = options
            continue
        if not isinstance(options, Mapping):
            raise ConfigError(f"{where} = {shown(options)}: must be a table, [{where}]")
        kind = options.get("type")
        is_own = base is SinkConfig and isinstance(kind, str) and is_custom(kind)
        if not isinstance(kind, str) or not (is_own or kind in registry):
            text = "missing" if kind is None else f"unknown {section[:-1]} type"
            value_text = "" if kind is None else f" = {shown(kind)}"
            hint = did_you_mean(str(kind), registry)
            raise ConfigError(f"{where}.type{value_text}: {text}{hint}")
        config: BaseModel = (
            sink_registry.load_config(kind, options, where)
            if base is SinkConfig
            else validated(source_registry.source_config_class(kind), options, where)
        )
        loaded[name] = anchored(config, Path.cwd())
    return loaded


def _check_sink_names(where: str, names: Sequence[str], sinks: Mapping[str, object]) -> None:
    for name in names:
        if name not in sinks:
            raise ConfigError(f"{where}: no sink is named {name!r}{did_you_mean(name, sinks)}")


def load(path: str | Path, *, needs_source: bool = True) -> PipelineConfig:
    """Read a TOML file that is meant to be run: it must have a sink, and a source if need be.

    Raises ConfigError that begins with the path, whatever is wrong with the file.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: {reason}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: more than {CONFIG_BYTES_MAX} bytes, not a configuration")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{path}: not UTF-8 text (at line {line}, column {column})") from None
    return loads(text, str(path), needs_source=needs_source)


def loads(text: str, where: str = "configuration", *, needs_source: bool = True) -> PipelineConfig:
    """Read TOML text; otherwise as `load`."""
    try:
        if _LONG_KEY.search(text):
            raise ConfigError("a dotted key has more than 32 parts")
        config = PipelineConfig(**tomllib.loads(text))
        if needs_source and not config.active_sources():
            raise ConfigError("sources: at least one enabled source is needed, [sources.NAME]")
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(
            "\n".join(f"{where}: {line}" for line in str(error).split("\n"))
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None
    except ValueError:  # the one other thing tomllib raises, from int()
        raise ConfigError(f"{where}: a number has more digits than any key takes") from None
    return config

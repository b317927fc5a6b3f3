"""`${NAME}` and `${file:PATH}` in configuration: they travel as written.

What is in an actor's arguments or a job's metadata can be read there, so a secret must
not be. Text with placeholders is resolved inside the actor that uses it, on its node.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, SecretStr

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.validation import validated

Model = TypeVar("Model", bound=BaseModel)

FILE_BYTES_MAX: Final = 64 * 1024
_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def has_placeholder(text: str) -> bool:
    """Whether `resolve` would change the text, or refuse it."""
    return _PLACEHOLDER.search(text) is not None


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The text with each `${NAME}` replaced by that variable, each `${file:PATH}` by the
    file's text without its last line end. What is put in is not looked at again.

    Raises ConfigError that names the variable or file and never what they hold.
    """
    return _PLACEHOLDER.sub(lambda found: _value(found[1], environ), text)


def _value(inner: str, environ: Mapping[str, str]) -> str:
    if inner.startswith("file:"):
        return _file_text(inner.removeprefix("file:"))
    if not _NAME.fullmatch(inner):
        raise ConfigError(f"${{{inner}}}: write ${{NAME}} or ${{file:PATH}}")
    try:
        return environ[inner]
    except KeyError:
        raise ConfigError(f"${{{inner}}}: the environment has no variable {inner}") from None


def _file_text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"${{file:{path}}}: {reason}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"${{file:{path}}}: more than {FILE_BYTES_MAX} bytes")
    return text.removesuffix("\n").removesuffix("\r")


def resolved(config: Model, environ: Mapping[str, str], where: str) -> Model:
    """The config with every placeholder in its texts and paths resolved, checked again.

    Called where the config is used, right before it builds something; a config without
    placeholders comes back as it is. Raises ConfigError, also for a path that is not
    absolute once resolved: a process of a cluster has no working directory of ours; and for
    one that something put in leads out of by `..`.
    """
    plain = {name: getattr(config, name) for name in type(config).model_fields}
    paths = paths_in(config)
    changed: dict[str, Any] = {}
    for name, kept in plain.items():
        value = kept.get_secret_value() if isinstance(kept, SecretStr) else kept
        if isinstance(value, str | Path) and has_placeholder(str(value)):
            changed[name] = resolve(str(value), environ)
            if name in paths and not Path(changed[name]).is_absolute():
                raise ConfigError(f"{where}.{name} = {str(value)!r}: must be an absolute path")
            if name in paths and _climbs(changed[name]) > _climbs(str(value)):
                raise ConfigError(f"{where}.{name} = {str(value)!r}: what is put in has a '..'")
    if not changed:
        return config
    return validated(type(config), plain | changed, where, hidden=changed)


def _climbs(path: str) -> int:
    return Path(path).parts.count("..")


def anchored(config: Model, folder: Path) -> Model:
    """The config with each relative path in it put under `folder`, and `~` expanded.

    A path that begins with a placeholder is left for `resolved` to judge.
    """
    changed = {
        name: folder / path.expanduser()
        for name, path in paths_in(config).items()
        if not path.is_absolute() and not str(path).startswith("${")
    }
    return config.model_copy(update=changed) if changed else config


def paths_in(config: BaseModel) -> dict[str, Path]:
    """The fields declared as `Path`, `str | Path` or `Path | None`, and what they hold."""
    found = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        is_path = field.annotation is Path or Path in get_args(field.annotation)
        if is_path and value is not None:
            found[name] = Path(value)
    return found


def exposure_of(secret_file: Path) -> str:
    """What is wrong with the mode of a file of secrets, one sentence; empty if nothing is.

    A file is exposed when any user of its machine may read or write it and may enter every
    folder above it. A file that is not there is not exposed.
    """
    with contextlib.suppress(OSError):
        mode = secret_file.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            folders = secret_file.resolve().parents
            if all(folder.stat().st_mode & stat.S_IXOTH for folder in folders):
                does = "write" if mode & stat.S_IWOTH else "read"
                return (
                    f"{secret_file}: every user of this machine may {does} it "
                    f"(mode {stat.S_IMODE(mode):04o}); chmod 600"
                )
    return ""


def secret_files_in(config: BaseModel) -> list[Path]:
    """The files that the `${file:PATH}` of a config name, as far as they hold no placeholder."""
    found = []
    for name in type(config).model_fields:
        kept = getattr(config, name)
        value = kept.get_secret_value() if isinstance(kept, SecretStr) else kept
        if isinstance(value, str | Path):
            inner = _PLACEHOLDER.findall(str(value))
            found += [Path(i.removeprefix("file:")) for i in inner if i.startswith("file:")]
    return found


def literal_secrets_in(config: BaseModel) -> list[str]:
    """The keys of a config whose secret is written out instead of a placeholder."""
    found = []
    for name in type(config).model_fields:
        kept = getattr(config, name)
        secret = kept.get_secret_value() if isinstance(kept, SecretStr) else ""
        if secret and not has_placeholder(secret):
            found.append(name)
    return found

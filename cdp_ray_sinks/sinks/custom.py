"""Sinks of your own: `type = "module:Class"` names the model of a sink's options.

The module may be installed, on Python's path, or lie in the working directory of the run.
Options and sink travel to their node, where the module has to be found too: Ray gives workers
the driver's working directory, or that of the job.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.base import SinkConfig

_TYPE: Final = re.compile(r"\w+(?:\.\w+)*:\w+(?:\.\w+)*")


def is_custom(sink_type: str) -> bool:
    """Whether a type names a class instead of a registered sink."""
    return ":" in sink_type


def look_in(folder: Path) -> None:
    """Have modules of that folder found, after all that are found already."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()


def custom_class(sink_type: str) -> type[SinkConfig]:
    """The config model that "module:Class" names.

    Raises ConfigError that says which part is wrong, and where it was looked for.
    """
    if not _TYPE.fullmatch(sink_type):
        raise ConfigError('write "module:Class", the class of its options')
    module_name, _, class_path = sink_type.partition(":")
    look_in(Path.cwd())
    found: object = _imported(module_name)
    for name in class_path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            file = getattr(sys.modules[module_name], "__file__", None) or module_name
            raise ConfigError(f"{file} has no {class_path}") from None
    if not isinstance(found, type) or not issubclass(found, SinkConfig):
        is_sink = hasattr(found, "write") and hasattr(found, "flush")
        hint = "; name the class of its options, whose build() makes it" if is_sink else ""
        raise ConfigError(f"{class_path} is no class of cdp_ray_sinks.SinkConfig{hint}")
    if found.build is SinkConfig.build:
        raise ConfigError(f"{class_path} has no build() of its own, so it makes no sink")
    return found


def _imported(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"no module named {error.name!r} in {Path.cwd()} nor on Python's path"
            ) from None
        raise ConfigError(f"importing {module_name}: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may raise what it likes
        raise ConfigError(
            f"importing {module_name}: {type(error).__name__}: {error}{_place_of(error)}"
        ) from None


def _place_of(error: BaseException) -> str:
    """The line that raised it."""
    trace = error.__traceback__
    if trace is None or isinstance(error, SyntaxError):  # which names its own
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"


def folder_of(config: SinkConfig) -> Path | None:
    """The folder that a custom sink's module was found in; None for one of this package."""
    module_name = type(config).__module__
    if module_name.partition(".")[0] in (__name__.partition(".")[0], "__main__"):
        return None
    module = sys.modules.get(module_name)
    if module is None or not module.__file__:
        return None
    file = Path(module.__file__)
    depth = module_name.count(".") + (file.name == "__init__.py")
    return file.absolute().parents[depth]

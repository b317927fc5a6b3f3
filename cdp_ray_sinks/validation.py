"""Plain options in, a checked model out; what is wrong is said in one clear text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cdp_ray_sinks.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

PROBLEMS_MAX: Final = 10
_SECRET = re.compile(r"password|secret|token|credential|(?:^|_)key$", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)\S*@|(?<=[?&])[^\s]*")
"""What a URL may hold that is nobody's business: user and password, and its query."""
_SHORT: Final = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 2


def shown(value: object, key: str = "") -> str:
    """A value as an error may show it: short, on one line, and nothing of a secret."""
    if _SECRET.search(key):
        return "(not shown)"
    if isinstance(value, str) and "://" in value:
        value = _CREDENTIALS.sub("(not shown)", value)
    return _SHORT.repr(value)


def key_text(key: str) -> str:
    """A key as an error may show it: quoted unless it is a plain word."""
    return key if re.fullmatch(r"[\w-]{1,64}", key, re.ASCII) else _SHORT.repr(key)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """'; did you mean x?' when something known is near, and all that is known otherwise."""
    names = sorted(known)
    near = get_close_matches(wrong.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def validated(
    model: type[Model], options: Mapping[str, Any], where: str, hidden: Collection[str] = ()
) -> Model:
    """The model made of `options`.

    Raises ConfigError that names, for each problem, `where` and the key, the value and
    what is allowed; the values of `hidden` keys are not shown.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise config_error(model, error, where, hidden) from None


def config_error(
    model: type[BaseModel], error: ValidationError, where: str, hidden: Collection[str] = ()
) -> ConfigError:
    """One line per problem; for `hidden` see `validated`."""
    problems = error.errors(include_url=False, include_context=False)
    lines = [_problem_text(model, problem, where, hidden) for problem in problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        lines.append(f"and {len(problems) - PROBLEMS_MAX} more problems")
    return ConfigError("\n".join(lines))


def _problem_text(
    model: type[BaseModel], problem: Mapping[str, Any], where: str, hidden: Collection[str]
) -> str:
    parts = [str(part) for part in problem["loc"]]
    key = where
    for part in problem["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{key_text(str(part))}"
    key = key.removeprefix(".")
    last = parts[-1] if parts else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, parts[:-1])
        return f"{key}: unknown key{did_you_mean(last, known)}"
    if problem["type"] == "missing":
        return f"{key}: missing, it has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not parts:
        return f"{key}: {message}"
    value = "(not shown)" if parts[0] in hidden else shown(problem["input"], last)
    return f"{key} = {value}: {message}"


def _fields_at(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """The keys of the model that `path` leads to; none if it leads elsewhere."""
    inner: type[BaseModel] | None = model
    for part in path:
        if inner is None:
            break
        if not part.isdigit():
            fields = {field.alias or name: field for name, field in inner.model_fields.items()}
            inner = _model_in(fields[part].annotation) if part in fields else None
    return [field.alias or name for name, field in inner.model_fields.items()] if inner else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model of `Model`, `Model | None` or `tuple[Model, ...]`."""
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)

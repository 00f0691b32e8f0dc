"""From a value that a model refused to the line that tells what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Final

from pydantic import ValidationError

from indexer.settings.models import FileDeployment, M, Model, Values
from indexer.settings.rules import HIDDEN, IN_LIST

_SECRET_KEYS: Final = frozenset({"database_url", "valkey_url", "rpc"})


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Return the end of a message about an unknown name: the nearest one, or else all that are allowed."""
    near = [one for one in names if name.endswith(f"_{one}")] or get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(sorted(names))}"


def judge(model: type[M], given: Mapping[str, object], label: Callable[[str], str], mistakes: list[str]) -> M | None:
    """Validate `given`; every mistake becomes a line: the key (by `label`), the value, what is allowed."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        issues = error.errors(include_url=False, include_context=False)
    mistakes += [_line(model, label, issue["type"], issue["loc"], issue["input"]) for issue in issues]
    return None


def _line(model: type[Model], label: Callable[[str], str], kind: str, loc: tuple[int | str, ...], value: object) -> str:
    if loc[0] == "deployment" and len(loc) > 2:
        inner, at = loc[2:], f"deployment[{loc[1]}]"
        return _line(FileDeployment, lambda key: label(f"{at}.{key}"), kind, inner, value)
    name = str(loc[0])
    key = label(name + "".join(f"[{part}]" for part in loc[1:] if isinstance(part, int)))
    if kind == "extra_forbidden":
        above = "; it belongs above the first [[chain]]" if name in Values.model_fields else ""
        return f"{key} = {HIDDEN}: unknown setting{above or did_you_mean(name, model.model_fields)}"
    one_of_list = len(loc) > 1 and name in IN_LIST
    allowed = IN_LIST[name] if one_of_list else model.model_fields[name].description
    given = ": missing;" if kind == "missing" else f" = {shown(name, value)}:"
    return f"{key}{given} must be {allowed}"


def shown(name: str, value: object) -> str:
    """Render a wrong value; hidden where the key holds secrets, or where it looks like a URL in the wrong place."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if name in _SECRET_KEYS or "://" in text or "@" in text:
        return HIDDEN
    return text if len(text) <= 60 else f"{text[:57]}..."

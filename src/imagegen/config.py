"""Configs checked before anything runs, and turned into objects."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import Any

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# A config can name any callable, and one read from a checkpoint may come from anywhere. Only these may be called:
# classes of these packages, functions of the objectives, and the `read` functions of the data sets.
ALLOWED_CLASSES = (
    "imagegen.callbacks.",
    "imagegen.data.",
    "imagegen.metrics.",
    "imagegen.models.",
    "imagegen.networks.",
    "imagegen.objectives.",
    "imagegen.optimizers.",
    "imagegen.strategies.",
    "imagegen.tracking.",
    "imagegen.trainer.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
    "torch.optim.",
)


class UserError(CompactHydraException):
    """Something the user can mend: shown without a traceback, exit code 1."""


def share_config_store() -> None:
    """Let Hydra read its own configs where they are: for `--help` it copies them all once for each group, a second."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]  # what it hands out is a copy


def validate(cfg: DictConfig) -> None:
    """Check every node with a `_target_`: allowed, no unknown or missing key, each value of its parameter's type.

    Raises UserError in one line that names the key.
    """
    cfg = cfg.copy()
    if cfg.get("run_dir", "") is None:
        cfg.run_dir = "."  # stands for the folder that the run will make
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        container = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"config: {_first_line(error)}") from None
    if missing:
        raise UserError(f"config: no value for {', '.join(missing)}; give one on the command line")
    _validate_node(container, "")


def build(node: DictConfig, name: str, **kwargs: Any) -> Any:
    """Instantiate a validated node; what its constructor refuses becomes a UserError in one line."""
    from hydra.utils import instantiate

    container = OmegaConf.to_container(node, resolve=True)
    _validate_node(container, name, given=set(kwargs))
    try:
        plain = _with_plain_partials(container)
        if isinstance(plain, functools.partial):
            return functools.partial(plain, **kwargs)
        return instantiate(plain, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | TypeError | OSError | RuntimeError):
            raise UserError(f"{name}: {_first_line(cause)}") from cause
        raise


def _with_plain_partials(node: Any) -> Any:
    """A validated node with its `_partial_` nodes made plain partials: Hydra's take 80 µs for checks at each call."""
    from hydra.utils import instantiate

    if isinstance(node, list):
        return [_with_plain_partials(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_plain_partials(value) for key, value in node.items()}
    if not node.get("_partial_"):
        return node
    checked = instantiate(node, _convert_="all")
    return functools.partial(checked.func, *checked.args, **checked.keywords)


def _validate_node(node: Any, path: str, given: set[str] | None = None) -> None:
    if isinstance(node, list):
        for i, item in enumerate(node):
            _validate_node(item, f"{path}[{i}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:  # before its children, which may only repeat a wrong value of this node
        _validate_call(node, path, given or set())
    for key, value in node.items():
        _validate_node(value, f"{path}.{key}" if path else str(key))


def _validate_call(node: dict[str, Any], path: str, given: set[str]) -> None:
    target = locate(node["_target_"], path)
    signature = inspect.signature(target)
    parameters = {key: value for key, value in signature.parameters.items() if key != "self"}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(target)
    values = {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "_convert_")}
    for key, value in values.items():
        if key not in parameters and not takes_any:
            raise UserError(f"{path}.{key}: {node['_target_']} has no such key; it has {', '.join(parameters)}")
        _validate_value(value, hints.get(key), f"{path}.{key}")
    if not node.get("_partial_"):
        required = {key for key, value in parameters.items() if value.default is value.empty and _by_name(value)}
        if absent := required - set(values) - given:
            raise UserError(f"{path}: {node['_target_']} also needs {', '.join(sorted(absent))}")


def _by_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):  # third-party annotations that exist for type checkers only
        return {}


def _validate_value(value: Any, hint: Any, path: str) -> None:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if hint is None or (isinstance(value, dict) and "_target_" in value):
        return
    try:
        converted = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise UserError(f"{path}: {message[0].lower()}{message[1:]}, got {value!r}") from None
    except (PydanticSchemaGenerationError, PydanticUserError):
        return  # a class that only its own constructor can check
    # pydantic would read "0.1" as a number and true as 1, but the constructor gets what stands in the config.
    if isinstance(value, str | bool) and isinstance(converted, int | float) and type(converted) is not type(value):
        raise UserError(f"{path}: input should be a number, got {value!r}")


def locate(target: str, path: str) -> Any:
    """The callable a `_target_` names, if it may be called. Raises UserError."""
    from hydra.utils import get_object

    refusal = UserError(f"{path}._target_: {target} is not allowed; targets must lie in {', '.join(ALLOWED_CLASSES)}")
    if not isinstance(target, str) or not target.startswith(ALLOWED_CLASSES):
        raise refusal
    try:
        found = get_object(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{path}._target_: cannot import {target}: {_first_line(error)}") from None
    # `imagegen.models.gan.os.system` starts well and ends badly: what counts is where the object was defined.
    origin = f"{getattr(found, '__module__', '')}."
    if inspect.isclass(found) and origin.startswith(ALLOWED_CLASSES):
        return found
    if inspect.isfunction(found) and "." not in found.__qualname__ and origin.startswith("imagegen.objectives."):
        return found
    if inspect.isfunction(found) and found.__name__ == "read" and origin.startswith("imagegen.data."):
        return found
    raise refusal


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def to_plain(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """The config as plain dicts, lists and numbers: what a checkpoint may hold under `weights_only=True`."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return typing.cast("dict[str, Any]", container)

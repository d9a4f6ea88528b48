"""From what a person names (an app, a database) to the objects that a command works with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sidework.cli.failures import UsageError
from sidework.errors import SideworkError

if TYPE_CHECKING:
    from sidework import BackgroundJobManager, BackgroundService


def load_service(app: str | None) -> BackgroundService:
    """Return the service that `module:attribute` names, or the only one in `module`.

    The working directory comes first on the path, as it does for `python -m`. Raises UsageError.
    """
    if not app:
        raise UsageError("say which app: APP, --app or SIDEWORK_APP, such as 'shop.jobs:service'")
    module_name, _, attribute = app.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        raise UsageError(
            f"{module_name!r} is a file; name its module: {_module_of(module_name)}:{attribute or 'service'}"
        )
    module = _import(module_name)
    return _named(module, attribute) if attribute else _only_one(module)


def open_service(*, database: str | None, app: str | None) -> BackgroundService:
    """Return a service on the database given, or the app's."""
    if database:
        return _service_on(database)
    if app:
        return load_service(app)
    raise UsageError("say which database: --database app.db or SIDEWORK_DATABASE, or an app with --app or SIDEWORK_APP")


def _service_on(database: str) -> BackgroundService:
    from sidework import BackgroundService

    try:
        return BackgroundService(database)
    except SideworkError as error:  # nothing was opened yet: it is the name that cannot be
        raise UsageError(str(error)) from error


def open_jobs(*, database: str | None, app: str | None) -> BackgroundJobManager:
    """Return the manager of the database given, or of the app's."""
    return open_service(database=database, app=app).jobs


def _module_of(path: str) -> str:
    """Return what the module in a file of the working directory is called."""
    return ".".join(part for part in Path(path).with_suffix("").parts if part not in {"/", ".."})


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {name!r} in {here} or among the installed packages") from error
        raise UsageError(_what_broke(name, error)) from error
    except Exception as error:
        raise UsageError(_what_broke(name, error)) from error


def _what_broke(name: str, error: Exception) -> str:
    place = ""
    trace = error.__traceback__
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        place = ""  # its text names file and line already
    return f"importing {name!r} failed with {type(error).__name__}: {error}{place}"


def _named(module: ModuleType, attribute: str) -> BackgroundService:
    from sidework import BackgroundService

    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, BackgroundService):
        return found
    what = "does not exist" if found is None else f"is a {type(found).__name__}, not a BackgroundService"
    raise UsageError(f"{module.__name__}:{attribute} {what}{_offer(module)}")


def _only_one(module: ModuleType) -> BackgroundService:
    services = _services_of(module)
    if len({id(service) for service in services.values()}) == 1:
        return next(iter(services.values()))
    if not services:
        raise UsageError(f"there is no BackgroundService in {module.__name__}; write module:attribute")
    raise UsageError(f"there are several services in {module.__name__}{_offer(module)}")


def _services_of(module: ModuleType) -> dict[str, BackgroundService]:
    from sidework import BackgroundService

    return {name: value for name, value in vars(module).items() if isinstance(value, BackgroundService)}


def _offer(module: ModuleType) -> str:
    names = [f"{module.__name__}:{name}" for name in _services_of(module)]
    return f"; write {' or '.join(names)}" if names else ""

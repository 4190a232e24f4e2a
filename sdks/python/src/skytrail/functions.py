"""The functions of a plugin: async ones run in the loop, the others in threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .context import current_request
from .threads import Threads

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Function:
    """A function and what is known about its parameters."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self.signature = _signature(call)
        self.is_async = _is_async(call)
        parameters = self.signature.parameters.values()
        self.takes_any_names = any(it.kind is it.VAR_KEYWORD for it in parameters)
        self.takes_delivery = "delivery" in self.signature.parameters
        by_position = [it for it in parameters if it.kind in _BY_POSITION and it.name != "delivery"]
        self.num_required = sum(it.default is it.empty for it in by_position)
        has_any = any(it.kind is it.VAR_POSITIONAL for it in parameters)
        self.num_positional = None if has_any else len(by_position)

    @property
    def name(self) -> str:
        """The function's name within its module."""
        call: Any = self.call
        while isinstance(call, functools.partial):
            call = call.func
        return str(getattr(call, "__qualname__", type(call).__name__)).replace("<locals>.", "")

    def complaint(self, /, *args: Any, **kwargs: Any) -> str | None:
        """Returns what is wrong with the arguments, if anything is."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return str(error)
        return None

    def known_names(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns those of the named arguments that the function takes."""
        if self.takes_any_names:
            return arguments
        return {name: it for name, it in arguments.items() if name in self.signature.parameters}

    async def run(self, threads: Threads, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function in the loop or in a thread."""
        if self.is_async:
            return await self.call(*args, **kwargs)
        running = current_request()
        if running is None:
            returned = await threads.run(self.call, *args, **kwargs)
        else:
            # Work in a thread cannot be stopped: its request is answered when the work ends.
            running.is_in_thread = True
            try:
                returned = await threads.run(self.call, *args, **kwargs)
            finally:
                running.is_in_thread = False
        return await returned if inspect.isawaitable(returned) else returned


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(call)
    except ValueError:
        # Some builtins, and in older versions of Python more of them.
        name = getattr(call, "__name__", repr(call))
        message = f"{name} has no signature that can be read: register a `def` that calls it"
        raise TypeError(message) from None


def _is_async(call: Any) -> bool:
    while isinstance(call, functools.partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - whether it is async, not callable
    )

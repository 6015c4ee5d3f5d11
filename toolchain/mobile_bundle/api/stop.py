"""How a caller cancels work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mobile_bundle.errors import ArgumentError

Cancel = threading.Event | Callable[[], bool] | None
"""An event that is set, or a function that returns True, stops the work soon. It is looked at between two steps."""


def is_cancelled(cancel: Cancel) -> bool:
    """Whether the work is to stop."""
    if cancel is not None and not isinstance(cancel, threading.Event) and not callable(cancel):
        raise ArgumentError(f"`cancel` {cancel!r}: must be a threading.Event or a function that returns a truth value")
    return bool(cancel is not None and (cancel.is_set() if isinstance(cancel, threading.Event) else cancel()))

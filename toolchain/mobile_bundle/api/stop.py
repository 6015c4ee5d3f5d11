"""How a caller cancels work."""

from __future__ import annotations

import threading
from collections.abc import Callable

Cancel = threading.Event | Callable[[], bool] | None
"""An event that is set, or a function that returns True, stops the work soon. It is looked at between two steps."""


def is_cancelled(cancel: Cancel) -> bool:
    """Whether the work is to stop."""
    return bool(cancel is not None and (cancel.is_set() if isinstance(cancel, threading.Event) else cancel()))

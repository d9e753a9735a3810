"""A time limit for a check: an answer may be a loop that never ends."""

import ctypes
import threading


class TimeIsUp(BaseException):
    """Raised inside a check that takes too long. No `Exception`, so that few handlers catch it."""


def within(seconds: float, function, *args):
    """Call a function in a thread, and stop waiting for it after a while.

    A thread is the only way that works in a notebook on every system: signals reach the main
    thread alone, and not on Windows; a process cannot be given a function of a notebook there.
    A thread cannot be killed. It is asked to stop between two steps of Python, which ends a
    `while True`. A call into C that never returns, such as a long `time.sleep`, goes on in the
    background until the kernel is restarted; so does a loop that catches every error.

    Raises:
        TimeIsUp: After that many seconds.
        BaseException: What the function raised.
    """
    result = {}

    def target():
        try:
            result["value"] = function(*args)
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        for _ in range(3):
            _ask_to_stop(thread)
            thread.join(0.2)
            if not thread.is_alive():
                break
        words = f"It did not return within {seconds:g} seconds. Is there a loop that never ends?"
        if thread.is_alive():
            words += " It goes on in the background: restart the kernel to end it."
        raise TimeIsUp(words)
    if "error" in result:
        raise result["error"]
    return result["value"]


def _ask_to_stop(thread: threading.Thread) -> None:
    identity = ctypes.c_ulong(thread.ident or 0)  # a thread that never started has no number
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(TimeIsUp))

"""A time limit for a check: an answer may be a loop that never ends."""

import ctypes
import threading
from concurrent.futures import Future


class TimeIsUp(BaseException):
    """Raised inside a check that takes too long. No `Exception`, so that few handlers catch it."""


def within(seconds: float, function, *args):
    """Call a function in a thread, and stop waiting for it after a while.

    A thread is the only way that works in a notebook on every system: signals reach the main
    thread alone, and not on Windows; a process cannot be given a function of a notebook there.
    It is asked to stop between two steps of Python, which ends a `while True`. A long call into C
    goes on in the background; so does a loop that catches every error. Raises `TimeIsUp` after that
    many seconds, or what the function raised.
    """
    result: Future = Future()

    def target():
        try:
            result.set_result(function(*args))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        return result.result()
    words = f"It did not return within {seconds:g} seconds. Is there a loop that never ends?"
    for _ in range(3):
        identity, error = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeIsUp)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, error)
        thread.join(0.2)
        if not thread.is_alive():
            raise TimeIsUp(words)
    raise TimeIsUp(f"{words} It goes on in the background: restart the kernel to end it.")

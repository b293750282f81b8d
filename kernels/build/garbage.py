"""Compiling without looking for garbage meanwhile."""

import contextlib
import gc


@contextlib.contextmanager
def left_lying():
    """Inside, Python does not search for garbage.

    To compile makes objects by the hundred thousand, most of which are needed until its end: the searches, which come with
    the number of new objects, took a twelfth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

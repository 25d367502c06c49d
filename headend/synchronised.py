"""Whether the operating system says that its clock is synchronised. Linux alone can be asked without asking a time server ourselves."""

import ctypes
import sys

__all__ = ["kernel_synchronised"]

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex takes 208 at most; all zeros asks and sets nothing


def kernel_synchronised() -> bool | None:
    """True: a time service keeps the clock right; False: none does; None: this system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    if not 0 <= state <= TIME_ERROR:
        return None
    return bool(state != TIME_ERROR)

"""What a script does first, before it imports libraries, which takes seconds."""

import signal


def quiet_ctrl_c() -> None:
    """Let Ctrl-C end the process without a traceback, until `console.script` handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

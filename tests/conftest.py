"""What holds for all tests."""

import signal

from hypothesis import settings

settings.register_profile("beside other tests", deadline=None)  # how long an example takes says nothing there
settings.load_profile("beside other tests")

# Where the tests run in the background of a script, or under nohup, Ctrl-C or a closing terminal is ignored, and every
# program they start would inherit that; a handler is not inherited.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

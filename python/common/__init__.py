"""What the commands share. Imports go down the floors or sideways, never up (see CONTRIBUTING.md)."""

import logging

# bitsandbytes looks for an optional kernel while it is imported, and complains when the machine is offline.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

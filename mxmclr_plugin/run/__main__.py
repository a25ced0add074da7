"""``python -m mxmclr_plugin.run TASK [key=value ...]``, the same as ``mxmclr``."""

import sys

from mxmclr_plugin.run.command_line import main

if __name__ == "__main__":
    sys.exit(main())

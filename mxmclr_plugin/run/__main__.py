"""``python -m mxmclr_plugin.run TASK [key=value ...]``, the same as ``mxmclr``."""

from __future__ import annotations

import sys

from mxmclr_plugin.run.command_line import main

sys.exit(main())

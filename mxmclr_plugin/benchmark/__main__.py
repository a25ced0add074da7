"""``python -m mxmclr_plugin.benchmark NAME [key=value ...]``."""

from __future__ import annotations

import sys

from mxmclr_plugin.benchmark.command_line import main

sys.exit(main())

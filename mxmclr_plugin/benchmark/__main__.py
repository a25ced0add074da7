"""``python -m mxmclr_plugin.benchmark {loss,retrieval} [key=value ...]``."""

from __future__ import annotations

import sys

from mxmclr_plugin.benchmark.command_line import main

sys.exit(main(sys.argv[1:]))

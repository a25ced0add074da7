"""What each of two processes does in ``test_build.py``."""

import warnings

from mxmclr_plugin.data.primitives.build import primitives


def generate(root, options):
    warnings.simplefilter("error")  # neither finds what the other writes damaged
    primitives(root, **options)

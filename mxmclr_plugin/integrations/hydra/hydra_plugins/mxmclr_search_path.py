"""Makes ``plugin_configs`` visible to every Hydra application: ``defaults: [loss: mxmclr]``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MxmclrSearchPath(SearchPathPlugin):
    """Appends ``plugin_configs`` to the search path, behind the application's own folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when an application starts."""
        search_path.append(provider="mxmclr_plugin", path="pkg://plugin_configs")

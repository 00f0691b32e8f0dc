"""The only reader of the environment and the TOML file; judged offline and as a whole.

Environment first, then the file, then the default. Every mistake is collected and told at once, a line each, in one
SettingsError; no line and no `repr` ever holds a secret.
"""

from indexer.settings.loading import load_settings
from indexer.settings.models import ChainSettings, Described, Origin, Settings
from indexer.settings.rules import DEFAULT_FILE, HIDDEN, host_of

__all__ = [
    "DEFAULT_FILE",
    "HIDDEN",
    "ChainSettings",
    "Described",
    "Origin",
    "Settings",
    "host_of",
    "load_settings",
]

"""The decoder of all event forms that `abi/` holds."""

from __future__ import annotations

import json

from indexer.core.abi import load_forms
from indexer.core.decode import Decoder
from indexer.resources import data_dir


def load_decoder() -> Decoder:
    """Compile the event forms of `abi/`."""
    files = data_dir("abi").glob("*/*.json")
    return Decoder(load_forms({f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in files}))

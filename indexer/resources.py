"""What comes with the program, `abi/` and `sql/`: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

import json
from pathlib import Path

from indexer.core.abi import load_forms
from indexer.core.decode import Decoder

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return the folder `abi` or `sql`. Raises FileNotFoundError where the installation lacks it."""
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the installation lacks its {name}/ folder")


def load_decoder() -> Decoder:
    """Compile the event forms of `abi/`."""
    files = data_dir("abi").glob("*/*.json")
    return Decoder(load_forms({f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in files}))

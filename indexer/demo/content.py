"""What the demo writes on chain: ordinary content, and the odd content that real chains hold too."""

from __future__ import annotations

import base64
import json
from random import Random

_NAMES = ("Ada", "Babel", "Cartographer", "Dispatch", "Echo", "Fathom", "Gauge", "Herald", "Iris", "Jigsaw")
_TASKS = ("translates", "prices options", "books travel", "reviews contracts", "watches servers", "draws maps")
_PLAIN_TAGS = ("quality", "latency", "uptime", "Quality", "accuracy")

ODD_TEXTS: tuple[str | bytes, ...] = (
    "",
    " quality ",
    "质量 🤖",
    b"nul\0inside",
    b"\0",
    b"bad \xc3\x28 utf-8 \xff",
    b"lone surrogate \xed\xa0\x80",
    "'; DROP TABLE agents; --",
    "line\nbreak\ttab \\u0000",
)
ODD_URIS: tuple[str | bytes, ...] = (
    *ODD_TEXTS,
    "https://agents.example/registration.json",
    "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
    "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
    '{"name": "inline"}',
    "data:application/json,%7B%22name%22%3A%22percent%22%7D",
    "data:application/json;base64,bm90IGpzb24",
    "https://agents.example/" + "long/" * 600,
)
# Look-alikes of the reserved key `agentWallet` are ordinary keys, and so is the empty one.
METADATA_KEYS: tuple[str | bytes, ...] = ("name", "model", "", "AgentWallet", b"agentWallet\0", b"\xff\xfe", "🔑")
_ODD_VALUES = ((0, 0), (-1, 0), (-12345, 2), (10**38, 0), (-(10**38), 18), (1, 18), (99977, 3), (101, 0), (5, 1))


def registration_uri(rng: Random) -> str:
    """Return a data URI with a registration file."""
    file = {
        "type": "https://eips.ethereum.org/EIPS/eip-8004#registration-v1",
        "name": f"{rng.choice(_NAMES)} {rng.randrange(1000)}",
        "description": f"An agent that {rng.choice(_TASKS)}.",
        "image": "https://agents.example/image.png",
        "services": [{"name": "A2A", "endpoint": "https://agents.example/.well-known/agent-card.json"}],
        "x402Support": rng.random() < 0.5,
        "active": rng.random() < 0.9,
        "supportedTrust": ["reputation"],
    }
    return "data:application/json;base64," + base64.b64encode(json.dumps(file).encode()).decode()


def uri(rng: Random) -> str | bytes:
    """Return an agent URI: a registration file more often than not."""
    return registration_uri(rng) if rng.random() < 0.6 else rng.choice(ODD_URIS)


def tag(rng: Random) -> str | bytes:
    """Return a tag, odd in one case of four."""
    return rng.choice(_PLAIN_TAGS) if rng.random() < 0.75 else rng.choice(ODD_TEXTS)


def text(rng: Random) -> str | bytes:
    """Return any text."""
    return rng.choice(ODD_TEXTS)


def value(rng: Random) -> tuple[int, int]:
    """Return (value, decimals) of a feedback: a score more often than not."""
    return (rng.randint(0, 100), 0) if rng.random() < 0.7 else rng.choice(_ODD_VALUES)


def digest(rng: Random) -> bytes:
    """Return a 32-byte hash, zero (none) in one case of five."""
    return rng.randbytes(32) if rng.random() < 0.8 else bytes(32)

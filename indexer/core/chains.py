"""Chains that need only an RPC: their registries, first block, pace and finality.

Addresses and first blocks: ERC-8004 contracts README and scripts/addresses.ts; the official registries have one address
per class of chain (CREATE2). Where nobody vouches for the first block it is None, and the operator names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil
from types import MappingProxyType
from typing import Final

from indexer.core.types import Deployment

INSTANT_S: Final = 120.0
"""Depth in seconds for chains that are final within a few blocks; generous, as it only stands in for a missing tag."""
BEACON_S: Final = 20 * 60.0
"""Depth in seconds for chains that finalize by epochs, as Ethereum does after 13 to 20 minutes."""
ROLLUP_S: Final = 30 * 60.0
"""Depth in seconds for rollups: their batch must land on the parent chain and be finalized there."""

UNKNOWN_FINALITY_BLOCKS: Final = 64
"""Depth for chains that are not listed here and serve no `finalized` tag."""
UNKNOWN_POLL_INTERVAL_S: Final = 1.0
"""Pause between two looks at the head of a chain that is not listed here."""
UNKNOWN_RANGE_HINT: Final = 2_000
"""Blocks of the first eth_getLogs: most public providers allow that much."""

_POLL_BOUNDS_S: Final = (0.5, 4.0)


@dataclass(frozen=True, slots=True)
class Registries:
    """The addresses of one official deployment, 20 bytes each."""

    identity: bytes
    reputation: bytes
    validation: tuple[bytes, ...]

    def starting_at(self, start_block: int) -> Deployment:
        """Return these registries as a deployment whose first block is `start_block`."""
        return Deployment(self.identity, self.reputation, self.validation, start_block)


MAINNET: Final = Registries(
    identity=bytes.fromhex("8004A169FB4a3325136EB29fA0ceB6D2e539a432"),
    reputation=bytes.fromhex("8004BAa17C55a88189AE136b182e5fdA19dE9b63"),
    validation=(bytes.fromhex("8004Cc8439f36fd5F9F049D9fF86523Df6dAAB58"),),
)
TESTNET: Final = Registries(
    identity=bytes.fromhex("8004A818BFB912233c491871b3d84c89A494BD9e"),
    reputation=bytes.fromhex("8004B663056A597Dffe9eCcC1965A193B7388713"),
    validation=(bytes.fromhex("8004Cb1BF31DAf7788923b405b754f57acEB4272"),),
)


@dataclass(frozen=True, slots=True)
class Switches:
    """Which proofs by header hold on a chain: its hash, its bloom, its receipts root."""

    header_hash: bool = True
    bloom: bool = True
    receipts: bool = True


ALL_HOLD: Final = Switches()
"""As Ethereum does it; a check that turns out to fail all the same gives way by itself."""


@dataclass(frozen=True, slots=True)
class KnownChain:
    """What is known of a chain. `start_block` is the block of the first registry's code, None where unknown."""

    name: str
    id: int
    registries: Registries
    start_block: int | None
    block_time_s: float
    finality_s: float
    range_hint: int = UNKNOWN_RANGE_HINT

    @property
    def finality_blocks(self) -> int:
        """Blocks after which a block counts as final where no provider serves the `finalized` tag."""
        return ceil(self.finality_s / self.block_time_s)

    @property
    def poll_interval_s(self) -> float:
        """Pause between two looks at the head: half a block, within bounds that spare the provider."""
        shortest, longest = _POLL_BOUNDS_S
        return min(max(self.block_time_s / 2, shortest), longest)


_CHAINS: Final = (
    KnownChain("ethereum", 1, MAINNET, 24339871, 12, BEACON_S),
    KnownChain("base", 8453, MAINNET, 41663783, 2, ROLLUP_S),
    KnownChain("bsc", 56, MAINNET, 79027268, 0.45, INSTANT_S),
    KnownChain("polygon", 137, MAINNET, 82458484, 2, INSTANT_S),
    KnownChain("arbitrum", 42161, MAINNET, 428895443, 0.25, ROLLUP_S),
    KnownChain("optimism", 10, MAINNET, 147514947, 2, ROLLUP_S),
    KnownChain("gnosis", 100, MAINNET, 44505010, 5, BEACON_S),
    KnownChain("monad", 143, MAINNET, 52952790, 0.4, INSTANT_S, range_hint=100),
    KnownChain("celo", 42220, MAINNET, 58396724, 1, ROLLUP_S),
    KnownChain("scroll", 534352, MAINNET, 29432417, 3, ROLLUP_S),
    KnownChain("taiko", 167000, MAINNET, 4305747, 2, ROLLUP_S),
    KnownChain("abstract", 2741, MAINNET, 39596871, 1, ROLLUP_S),
    KnownChain("avalanche", 43114, MAINNET, 77389000, 1, INSTANT_S),
    KnownChain("linea", 59144, MAINNET, 28662553, 2, ROLLUP_S),
    KnownChain("mantle", 5000, MAINNET, 91333846, 2, ROLLUP_S),
    KnownChain("megaeth", 4326, MAINNET, 7833805, 1, ROLLUP_S),
    KnownChain("xlayer", 196, MAINNET, None, 1, ROLLUP_S),
    KnownChain("soneium", 1868, MAINNET, None, 2, ROLLUP_S),
    KnownChain("goat", 2345, MAINNET, None, 3, ROLLUP_S),
    KnownChain("metis", 1088, MAINNET, None, 2, ROLLUP_S),
    KnownChain("skale", 1187947933, MAINNET, None, 1, INSTANT_S),
    KnownChain("shape", 360, MAINNET, None, 2, ROLLUP_S),
    KnownChain("hedera", 295, MAINNET, None, 2, INSTANT_S),
    KnownChain("sepolia", 11155111, TESTNET, 9989393, 12, BEACON_S),
    KnownChain("base-sepolia", 84532, TESTNET, 36304165, 2, ROLLUP_S),
    # The block found for BSC testnet lies above others' first events there: better asked than trusted.
    KnownChain("bsc-testnet", 97, TESTNET, None, 0.45, INSTANT_S),
    KnownChain("monad-testnet", 10143, TESTNET, 10391697, 0.4, INSTANT_S, range_hint=100),
    KnownChain("polygon-amoy", 80002, TESTNET, 33069064, 2, INSTANT_S),
    KnownChain("arbitrum-sepolia", 421614, TESTNET, 239945838, 0.25, ROLLUP_S),
    KnownChain("optimism-sepolia", 11155420, TESTNET, 34412868, 2, ROLLUP_S),
    KnownChain("linea-sepolia", 59141, TESTNET, 24323547, 2, ROLLUP_S),
    KnownChain("scroll-sepolia", 534351, TESTNET, 16543185, 3, ROLLUP_S),
    KnownChain("mantle-sepolia", 5003, TESTNET, 34586937, 2, ROLLUP_S),
    KnownChain("megaeth-testnet", 6343, TESTNET, 11668749, 1, ROLLUP_S),
    KnownChain("avalanche-fuji", 43113, TESTNET, None, 1, INSTANT_S),
    KnownChain("celo-sepolia", 11142220, TESTNET, None, 1, ROLLUP_S),
    KnownChain("taiko-hoodi", 167013, TESTNET, None, 2, ROLLUP_S),
    KnownChain("xlayer-testnet", 1952, TESTNET, None, 1, ROLLUP_S),
    KnownChain("abstract-testnet", 11124, TESTNET, None, 1, ROLLUP_S),
    KnownChain("soneium-minato", 1946, TESTNET, None, 2, ROLLUP_S),
    KnownChain("goat-testnet", 48816, TESTNET, None, 3, ROLLUP_S),
    KnownChain("metis-sepolia", 59902, TESTNET, None, 2, ROLLUP_S),
    KnownChain("hedera-testnet", 296, TESTNET, None, 2, INSTANT_S),
    KnownChain("skale-base-sepolia", 324705682, TESTNET, None, 1, INSTANT_S),
    KnownChain("arc-testnet", 5042002, TESTNET, None, 1, INSTANT_S),
    KnownChain("shape-sepolia", 11011, TESTNET, None, 2, ROLLUP_S),
    KnownChain("gnosis-chiado", 10200, TESTNET, None, 5, BEACON_S),
)

KNOWN_CHAINS: Final[Mapping[str, KnownChain]] = MappingProxyType({chain.name: chain for chain in _CHAINS})
"""Every known chain by its name."""
_BY_ID: Final[Mapping[int, KnownChain]] = MappingProxyType({chain.id: chain for chain in _CHAINS})

_OWN_HEADERS: Final = Switches(header_hash=False)  # fields that the hash of Ethereum's header does not have
_OWN_TRANSACTIONS: Final = Switches(bloom=False)  # logs of the protocol itself, or blooms of an earlier block
_ONLY_THE_FORM: Final = Switches(header_hash=False, bloom=False, receipts=False)  # headers made up for the RPC
_ODD_CHAINS: Final[Mapping[int, Switches]] = MappingProxyType(
    {
        137: _OWN_TRANSACTIONS,  # Polygon: state-sync
        80002: _OWN_TRANSACTIONS,  # Polygon Amoy
        143: _OWN_TRANSACTIONS,  # Monad: asynchronous execution
        10143: _OWN_TRANSACTIONS,  # Monad testnet
        43114: _OWN_HEADERS,  # Avalanche: extDataHash and others
        43113: _OWN_HEADERS,  # Avalanche Fuji
        2741: _ONLY_THE_FORM,  # Abstract, of zkSync's stack: logs without a transaction
        11124: _ONLY_THE_FORM,  # Abstract testnet
        324: _ONLY_THE_FORM,  # zkSync
        295: _ONLY_THE_FORM,  # Hedera: hashes cut to 32 bytes
        296: _ONLY_THE_FORM,  # Hedera testnet
        999: _ONLY_THE_FORM,  # Hyperliquid: system transactions
        25: _ONLY_THE_FORM,  # Cronos: Tendermint's hash, extra bloom bits
        314: _ONLY_THE_FORM,  # Filecoin: tipsets
    }
)


def switches_of(chain_id: int) -> Switches:
    """Return which proofs by header hold on the chain, as far as anything is known against them."""
    return _ODD_CHAINS.get(chain_id, ALL_HOLD)


# What people also write; told as a hint, never taken silently, so that a chain has one name in every database.
_OTHER_NAMES: Final = {
    "amoy": "polygon-amoy",
    "arb": "arbitrum",
    "avax": "avalanche",
    "bnb": "bsc",
    "chiado": "gnosis-chiado",
    "eth": "ethereum",
    "fuji": "avalanche-fuji",
    "mainnet": "ethereum",
    "matic": "polygon",
    "minato": "soneium-minato",
    "op": "optimism",
    "op-sepolia": "optimism-sepolia",
    "xdai": "gnosis",
}


def find_chain(name: object, chain_id: object) -> KnownChain | None:
    """Return the known chain of this name, or else of this id; None where it is neither."""
    if isinstance(name, str) and name in KNOWN_CHAINS:
        return KNOWN_CHAINS[name]
    return _BY_ID.get(chain_id) if isinstance(chain_id, int) else None


def closest_names(name: str, others: tuple[str, ...] = ()) -> list[str]:
    """Return up to three names of known chains, or of `others`, that `name` may have meant; best first."""
    lowered = name.lower()
    meant = [_OTHER_NAMES[lowered]] if lowered in _OTHER_NAMES else []
    near = get_close_matches(lowered, [*others, *KNOWN_CHAINS], n=3)
    return list(dict.fromkeys([*meant, *near]))[:3]

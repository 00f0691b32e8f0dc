"""Which instance indexes which chain: each computes the same answer from what all of them can see.

The answer keeps what is held where it can, so it is a fixed point once everyone has acted on it: nothing flaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instance:
    """A live daemon, and the chains that it could index now: nothing of them fails at it."""

    holder: str
    chain_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Share:
    """What one instance may do: `take` are free chains that are its to begin, `give` held ones that are another's."""

    take: frozenset[int]
    give: frozenset[int]


def share_of(me: str, wanted: AbstractSet[int], instances: Sequence[Instance], held: Mapping[int, str]) -> Share:
    """Say which of the chains it `wanted` an instance may take now, and which it holds it should hand over.

    `held` is the holder of every unexpired lease; one of our own, left over from before, is no obstacle. A free chain
    that no live instance could index is anyone's to try.
    """
    owners = owners_of(instances, held)
    return Share(
        take=frozenset(chain for chain in wanted if held.get(chain, me) == me == owners.get(chain, me)),
        give=frozenset(chain for chain, holder in held.items() if holder == me != owners.get(chain, me)),
    )


def owners_of(instances: Sequence[Instance], held: Mapping[int, str]) -> dict[int, str]:
    """Give every chain that is free, or held by one of `instances`, its owner: as even as single hand-overs make it.

    Among instances of the same chains the counts differ by one at most. Chains held by anyone else are left out.
    """
    loads = {one.holder: 0 for one in sorted(instances, key=lambda one: one.holder)}
    owners = {chain: holder for chain, holder in sorted(held.items()) if holder in loads}
    for holder in owners.values():
        loads[holder] += 1
    able = _able(instances)
    free = able.keys() - held.keys()
    for chain in sorted(free, key=lambda chain: (len(able[chain]), chain)):  # whoever has no choice comes first
        owners[chain] = min(able[chain], key=lambda holder: (loads[holder], holder))
        loads[owners[chain]] += 1
    while (move := _best_move(owners, able, loads)) is not None:
        chain, to = move
        loads[owners[chain]] -= 1
        loads[to] += 1
        owners[chain] = to
    return owners


def _able(instances: Sequence[Instance]) -> dict[int, list[str]]:
    """List by chain who could index it."""
    able: dict[int, list[str]] = {}
    for one in instances:
        for chain in one.chain_ids:
            able.setdefault(chain, []).append(one.holder)
    return able


def _best_move(
    owners: Mapping[int, str], able: Mapping[int, Sequence[str]], loads: Mapping[str, int]
) -> tuple[int, str] | None:
    """Find the hand-over that evens out most; None where none brings two counts nearer to each other."""
    moves = (
        (loads[holder] - loads[to], chain, to)
        for chain, holder in owners.items()
        for to in able.get(chain, ())
        if loads[holder] - loads[to] >= 2
    )
    best = max(moves, default=None)
    return None if best is None else (best[1], best[2])

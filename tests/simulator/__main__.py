"""Serve a simulated chain for use by hand: `PYTHONPATH=tests python -m simulator --seed 1 --port 8545`."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress

from simulator.plan import draw
from simulator.world import World


def main() -> None:
    """Read the arguments and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="simulator", description="A lying, failing, reorganising chain.")
    parser.add_argument("--seed", type=int, default=1, help="decides everything (default 1)")
    parser.add_argument("--port", type=int, default=8545, help="of the first provider; the others follow it")
    parser.add_argument("--proof", choices=("logs", "receipts"), help="what the reader is able to find out")
    parser.add_argument("--block-s", type=float, default=2.0, help="seconds between two changes (default 2)")
    parser.add_argument("--calm", action="store_true", help="no faults and no lies, reorgs only")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


async def _serve(args: argparse.Namespace) -> None:
    plan = draw(args.seed, proof=args.proof)
    async with World(plan, first_port=args.port) as world:
        if args.calm:
            await world.calm()
        print(json.dumps({"rpc": world.urls, "plan": plan.document()}, default=str), flush=True)
        async with world.weather(quickest_s=args.block_s, slowest_s=args.block_s):
            await asyncio.Event().wait()


main()

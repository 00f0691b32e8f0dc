"""`python -m soak --seconds 600`: fresh seeds, two at a time; `--seed N` repeats one. Prints a JSON line a seed.

Ends with 1 where a seed failed; what its processes said stays in the folder that is named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from databases import execute, with_database
from simulator.plan import draw

from indexer.embedded.postgres import postgres
from indexer.store.migrations import migrate
from soak.house import Servers
from soak.long import LongRun, plan_of
from soak.season import Season

AT_A_TIME: Final = 2
LONGEST_S: Final = 240.0  # of one seed
TEMPLATE: Final = "soak_template"


def main() -> int:
    """Read the arguments, run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long new seeds are begun (default 600)")
    parser.add_argument("--seed", type=int, nargs="*", help="run these and no others")
    parser.add_argument("--proof", choices=("logs", "receipts"), help="for all seeds; else each draws its own")
    parser.add_argument("--providers", type=int, help="for all seeds; else each draws its own")
    parser.add_argument("--jobs", type=int, default=AT_A_TIME, help=f"seeds at a time (default {AT_A_TIME})")
    parser.add_argument("--long", action="store_true", help="one world for --seconds, with samples of what it holds")
    parser.add_argument("--one", metavar="FOLDER", help=argparse.SUPPRESS)  # what this program calls itself with
    parser.add_argument("--postgres", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return asyncio.run(_one(args))
    if args.long:
        return asyncio.run(_long(args))
    return asyncio.run(_many(args))


async def _one(args: argparse.Namespace) -> int:
    plan = draw(args.seed[0], proof=args.proof, providers=args.providers)
    folder = Path(args.one)
    (folder / "plan.json").write_text(json.dumps(plan.document(), default=str, indent=1))
    try:
        async with asyncio.timeout(LONGEST_S):
            figures = await Season(plan, Servers(args.postgres, TEMPLATE), folder).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome of the seed
        reason = f"{type(error).__name__}: {error}"
        print(json.dumps({"seed": plan.seed, "proof": plan.proof, "failed": reason[:3000]}))
        return 1
    print(json.dumps(figures))
    return 0


async def _long(args: argparse.Namespace) -> int:
    folder = _new_folder()
    plan = plan_of(args.seed[0] if args.seed else SystemRandom().randrange(10**6), args.proof or "receipts")
    async with _servers(folder) as servers:
        try:
            outcome = await LongRun(plan, servers, folder, args.seconds).run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome of the run
            outcome = {"seed": plan.seed, "failed": f"{type(error).__name__}: {error}"[:3000]}
    if "failed" in outcome:
        print(json.dumps({**outcome, "kept": str(folder)}))
        return 1
    print(json.dumps(outcome))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _many(args: argparse.Namespace) -> int:
    folder = _new_folder()
    failed: list[int] = []
    done = 0
    async with _servers(folder) as servers:
        seeds = _seeds(args)

        async def work() -> None:
            nonlocal done
            for seed in seeds:
                outcome = await _run_apart(args, seed, servers, folder)
                print(json.dumps(outcome), flush=True)
                done += 1
                if "failed" in outcome:
                    failed.append(seed)

        async with asyncio.TaskGroup() as group:
            for _ in range(args.jobs):
                group.create_task(work())
    print(json.dumps({"seeds": done, "failed": failed, **({"kept": str(folder)} if failed else {})}))
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="erc8004-soak-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    return folder


def _seeds(args: argparse.Namespace) -> Iterator[int]:
    if args.seed:
        yield from args.seed
        return
    random, end = SystemRandom(), time.monotonic() + args.seconds
    while time.monotonic() < end:
        yield random.randrange(10**6)


async def _run_apart(args: argparse.Namespace, seed: int, servers: Servers, parent: Path) -> dict[str, Any]:
    """Run a seed in a process of its own, which nothing of another seed can disturb."""
    folder = parent / f"seed-{seed}"
    folder.mkdir(exist_ok=True)
    words = ["--one", str(folder), "--seed", str(seed), "--postgres", servers.url]
    for name in ("proof", "providers"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", str(value)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "soak", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    (folder / "soak.log").write_bytes(err)
    try:
        outcome: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        outcome = {"seed": seed, "failed": f"ended with {process.returncode}: {err.decode()[-1000:]}"}
    if "failed" not in outcome:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


@asynccontextmanager
async def _servers(folder: Path) -> AsyncIterator[Servers]:
    """Start a PostgreSQL without care for power cuts, and make the database that all others are copies of."""
    async with postgres(folder) as url:
        relaxed = (f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "full_page_writes", "synchronous_commit"))
        await execute(url, *relaxed, "SELECT pg_reload_conf()", f'CREATE DATABASE "{TEMPLATE}"')
        await migrate(with_database(url, TEMPLATE))
        yield Servers(url, TEMPLATE)


if __name__ == "__main__":
    sys.exit(main())

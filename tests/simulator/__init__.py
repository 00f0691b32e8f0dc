"""A JSON-RPC node in this process, for tests: one chain as ground truth, any number of nodes telling it, or lies.

chain = SimChain(seed=1)
chain.mine([event_log(REGISTRY, "Registered(uint256 indexed id, string uri, address indexed owner)", 1, "", OWNER)])
async with SimNode(chain) as node:
    ...  # node.url, node.calls, node.http_requests
"""

from simulator.chain import SimBlock, SimChain
from simulator.logs import SimLog, abi_log, event_log, form_log, import_logs_json
from simulator.node import Fault, SimNode, SimRpcError

__all__ = [
    "Fault",
    "SimBlock",
    "SimChain",
    "SimLog",
    "SimNode",
    "SimRpcError",
    "abi_log",
    "event_log",
    "form_log",
    "import_logs_json",
]

// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

interface IRegistry {
    function register() external returns (uint256);
    function register(string calldata agentURI) external returns (uint256);
    function setAgentURI(uint256 agentId, string calldata newURI) external;
    function transferFrom(address from, address to, uint256 agentId) external;
}

/// A contract that registers agents and uses the mint's call-back to act in the middle of it.
contract Registrant {
    /// What the next call-back does, once.
    enum Action {
        None,
        TransferAway,
        SetURI,
        RegisterAgain
    }

    Action private _action;
    address private _to;
    string private _uri;

    /// Register without a URI; `to` and `uri` are used by the action that needs them.
    function register(IRegistry registry, Action action, address to, string calldata uri) external {
        (_action, _to, _uri) = (action, to, uri);
        registry.register();
    }

    /// The same with a URI for the registration itself.
    function registerWithURI(IRegistry registry, string calldata agentURI, Action action, address to, string calldata uri)
        external
    {
        (_action, _to, _uri) = (action, to, uri);
        registry.register(agentURI);
    }

    function onERC721Received(address, address from, uint256 agentId, bytes calldata) external returns (bytes4) {
        Action action = _action;
        _action = Action.None;
        if (from == address(0)) _act(IRegistry(msg.sender), action, agentId);
        return this.onERC721Received.selector;
    }

    function _act(IRegistry registry, Action action, uint256 agentId) private {
        if (action == Action.TransferAway) registry.transferFrom(address(this), _to, agentId);
        if (action == Action.SetURI) registry.setAgentURI(agentId, _uri);
        if (action == Action.RegisterAgain) registry.register(_uri);
    }

    /// Act as the owner of what was registered here.
    function execute(address to, bytes calldata data) external returns (bytes memory) {
        (bool done, bytes memory answer) = to.call(data);
        require(done, "call failed");
        return answer;
    }

    /// ERC-1271 of the simplest kind: the digest is its own signature.
    function isValidSignature(bytes32 digest, bytes calldata signature) external pure returns (bytes4) {
        return keccak256(signature) == keccak256(abi.encode(digest)) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

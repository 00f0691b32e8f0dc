// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// The administrative events that the proxies of real deployments emit, without proxies.
/// The constructor logs what an official proxy logs in its first two transactions.
abstract contract Admin {
    event Upgraded(address indexed implementation);
    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    event Initialized(uint64 version);

    address public owner;
    uint64 private _version = 2;

    modifier onlyOwner() {
        require(msg.sender == owner, "not the admin");
        _;
    }

    constructor(address admin) {
        owner = admin;
        emit Upgraded(address(this));
        emit OwnershipTransferred(address(0), admin);
        emit Initialized(1);
        emit Upgraded(address(this));
        emit Initialized(2);
    }

    function transferOwnership(address to) external onlyOwner {
        emit OwnershipTransferred(owner, to);
        owner = to;
    }

    /// Says what an upgrade says; the code stays as it is.
    function announceUpgrade(address implementation) external onlyOwner {
        emit Upgraded(implementation);
        emit Initialized(++_version);
    }

    function getVersion() external pure returns (string memory) {
        return "2.0.0";
    }
}

interface IAgents {
    function ownerOf(uint256 agentId) external view returns (address);
    function isAuthorizedOrOwner(address spender, uint256 agentId) external view returns (bool);
}

/// A registry that names the identity registry it belongs to.
abstract contract Dependent is Admin {
    IAgents internal immutable agents;

    constructor(address admin, address identity) Admin(admin) {
        require(identity != address(0), "bad identity");
        agents = IAgents(identity);
    }

    function getIdentityRegistry() external view returns (address) {
        return address(agents);
    }
}

// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// Emits any log: 0 to 4 topics, any data. For event forms and defects that the registries never produce.
contract Emitter {
    struct Entry {
        bytes32[] topics;
        bytes data;
    }

    function emitLog(bytes32[] calldata topics, bytes calldata data) external {
        _emit(topics, data);
    }

    function emitMany(Entry[] calldata entries) external {
        for (uint256 i; i < entries.length; i++) _emit(entries[i].topics, entries[i].data);
    }

    function _emit(bytes32[] calldata topics, bytes memory data) private {
        uint256 count = topics.length;
        require(count <= 4, "too many topics");
        bytes32[4] memory t;
        for (uint256 i; i < count; i++) t[i] = topics[i];
        assembly ("memory-safe") {
            let at := add(data, 32)
            let size := mload(data)
            switch count
            case 0 { log0(at, size) }
            case 1 { log1(at, size, mload(t)) }
            case 2 { log2(at, size, mload(t), mload(add(t, 32))) }
            case 3 { log3(at, size, mload(t), mload(add(t, 32)), mload(add(t, 64))) }
            default { log4(at, size, mload(t), mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96))) }
        }
    }
}

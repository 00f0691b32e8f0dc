// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Dependent} from "./Admin.sol";

/// ERC-8004 reputation registry: feedback by (agent, client, index), the index counted from 1.
contract Reputation is Dependent {
    event NewFeedback(
        uint256 indexed agentId,
        address indexed clientAddress,
        uint64 feedbackIndex,
        int128 value,
        uint8 valueDecimals,
        string indexed indexedTag1,
        string tag1,
        string tag2,
        string endpoint,
        string feedbackURI,
        bytes32 feedbackHash
    );
    event FeedbackRevoked(uint256 indexed agentId, address indexed clientAddress, uint64 indexed feedbackIndex);
    event ResponseAppended(
        uint256 indexed agentId,
        address indexed clientAddress,
        uint64 feedbackIndex,
        address indexed responder,
        string responseURI,
        bytes32 responseHash
    );

    struct Feedback {
        int128 value;
        uint8 valueDecimals;
        bool isRevoked;
        string tag1;
        string tag2;
    }

    struct Found {
        address client;
        uint64 index;
    }

    int128 private constant MAX_VALUE = 1e38;

    /// Entry 0 of a list has the index 1.
    mapping(uint256 => mapping(address => Feedback[])) private _feedback;
    mapping(uint256 => address[]) private _clients;
    /// Everyone who responded, once a response, by (agent, client, index).
    mapping(uint256 => mapping(address => mapping(uint64 => address[]))) private _responders;

    constructor(address admin, address identity) Dependent(admin, identity) {}

    function giveFeedback(
        uint256 agentId,
        int128 value,
        uint8 valueDecimals,
        string calldata tag1,
        string calldata tag2,
        string calldata endpoint,
        string calldata feedbackURI,
        bytes32 feedbackHash
    ) external {
        require(valueDecimals <= 18, "too many decimals");
        require(value >= -MAX_VALUE && value <= MAX_VALUE, "value too large");
        require(!agents.isAuthorizedOrOwner(msg.sender, agentId), "Self-feedback not allowed");
        Feedback[] storage given = _feedback[agentId][msg.sender];
        if (given.length == 0) _clients[agentId].push(msg.sender);
        given.push(Feedback(value, valueDecimals, false, tag1, tag2));
        emit NewFeedback(
            agentId, msg.sender, uint64(given.length), value, valueDecimals, tag1, tag1, tag2, endpoint, feedbackURI, feedbackHash
        );
    }

    function revokeFeedback(uint256 agentId, uint64 feedbackIndex) external {
        Feedback storage f = _at(agentId, msg.sender, feedbackIndex);
        require(!f.isRevoked, "Already revoked");
        f.isRevoked = true;
        emit FeedbackRevoked(agentId, msg.sender, feedbackIndex);
    }

    /// Open to anyone, for revoked feedback too, any number of times.
    function appendResponse(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        string calldata responseURI,
        bytes32 responseHash
    ) external {
        require(bytes(responseURI).length > 0, "Empty URI");
        _at(agentId, clientAddress, feedbackIndex);
        _responders[agentId][clientAddress][feedbackIndex].push(msg.sender);
        emit ResponseAppended(agentId, clientAddress, feedbackIndex, msg.sender, responseURI, responseHash);
    }

    function _at(uint256 agentId, address client, uint64 index) private view returns (Feedback storage) {
        require(index > 0, "index must be > 0");
        require(index <= _feedback[agentId][client].length, "index out of bounds");
        return _feedback[agentId][client][index - 1];
    }

    // Views

    function getLastIndex(uint256 agentId, address clientAddress) external view returns (uint64) {
        return uint64(_feedback[agentId][clientAddress].length);
    }

    function getClients(uint256 agentId) external view returns (address[] memory) {
        return _clients[agentId];
    }

    function readFeedback(uint256 agentId, address clientAddress, uint64 feedbackIndex)
        external
        view
        returns (int128 value, uint8 valueDecimals, string memory tag1, string memory tag2, bool isRevoked)
    {
        Feedback storage f = _at(agentId, clientAddress, feedbackIndex);
        return (f.value, f.valueDecimals, f.tag1, f.tag2, f.isRevoked);
    }

    /// The mean in the most frequent decimals (of equally frequent ones the smallest), truncated twice
    /// toward zero, and cast to int128 unchecked, as on the real chains.
    function getSummary(uint256 agentId, address[] calldata clientAddresses, string calldata tag1, string calldata tag2)
        external
        view
        returns (uint64 count, int128 summaryValue, uint8 summaryValueDecimals)
    {
        require(clientAddresses.length > 0, "clientAddresses required");
        Found[] memory found = _find(agentId, clientAddresses, tag1, tag2, false);
        if (found.length == 0) return (0, 0, 0);
        int256 sum;
        uint64[19] memory used;
        for (uint256 i; i < found.length; i++) {
            Feedback storage f = _at(agentId, found[i].client, found[i].index);
            sum += int256(f.value) * int256(10 ** (18 - f.valueDecimals));
            used[f.valueDecimals]++;
        }
        for (uint8 d = 1; d <= 18; d++) {
            if (used[d] > used[summaryValueDecimals]) summaryValueDecimals = d;
        }
        int256 mean = sum / int256(found.length);
        summaryValue = int128(mean / int256(10 ** (18 - summaryValueDecimals)));
        count = uint64(found.length);
    }

    /// An empty client list means all clients.
    function readAllFeedback(
        uint256 agentId,
        address[] calldata clientAddresses,
        string calldata tag1,
        string calldata tag2,
        bool includeRevoked
    )
        external
        view
        returns (
            address[] memory clients,
            uint64[] memory feedbackIndexes,
            int128[] memory values,
            uint8[] memory valueDecimals,
            string[] memory tag1s,
            string[] memory tag2s,
            bool[] memory revokedStatuses
        )
    {
        address[] memory asked = clientAddresses;
        if (asked.length == 0) asked = _clients[agentId];
        Found[] memory found = _find(agentId, asked, tag1, tag2, includeRevoked);
        clients = new address[](found.length);
        feedbackIndexes = new uint64[](found.length);
        values = new int128[](found.length);
        valueDecimals = new uint8[](found.length);
        tag1s = new string[](found.length);
        tag2s = new string[](found.length);
        revokedStatuses = new bool[](found.length);
        for (uint256 i; i < found.length; i++) {
            Feedback storage f = _at(agentId, found[i].client, found[i].index);
            (clients[i], feedbackIndexes[i]) = (found[i].client, found[i].index);
            (values[i], valueDecimals[i], revokedStatuses[i]) = (f.value, f.valueDecimals, f.isRevoked);
            (tag1s[i], tag2s[i]) = (f.tag1, f.tag2);
        }
    }

    /// Client 0 means all clients, index 0 all of a client's feedback, an empty list all responders.
    function getResponseCount(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        address[] calldata responders
    ) external view returns (uint64 count) {
        if (clientAddress != address(0)) return _countOf(agentId, clientAddress, feedbackIndex, responders);
        address[] storage all = _clients[agentId];
        for (uint256 i; i < all.length; i++) count += _countOf(agentId, all[i], 0, responders);
    }

    function _countOf(uint256 agentId, address client, uint64 index, address[] calldata asked)
        private
        view
        returns (uint64 count)
    {
        if (index != 0) return _countAt(_responders[agentId][client][index], asked);
        for (uint64 i = 1; i <= _feedback[agentId][client].length; i++) {
            count += _countAt(_responders[agentId][client][i], asked);
        }
    }

    function _countAt(address[] storage given, address[] calldata asked) private view returns (uint64 count) {
        if (asked.length == 0) return uint64(given.length);
        for (uint256 i; i < asked.length; i++) {
            for (uint256 j; j < given.length; j++) if (given[j] == asked[i]) count++;
        }
    }

    /// Feedback that passes the filters; a client listed twice is found twice.
    function _find(uint256 agentId, address[] memory clients, string calldata tag1, string calldata tag2, bool revoked)
        private
        view
        returns (Found[] memory found)
    {
        uint256 most;
        for (uint256 i; i < clients.length; i++) most += _feedback[agentId][clients[i]].length;
        found = new Found[](most);
        uint256 n;
        for (uint256 i; i < clients.length; i++) {
            Feedback[] storage given = _feedback[agentId][clients[i]];
            for (uint256 j; j < given.length; j++) {
                if (given[j].isRevoked && !revoked) continue;
                if (!_passes(given[j].tag1, tag1) || !_passes(given[j].tag2, tag2)) continue;
                found[n++] = Found(clients[i], uint64(j + 1));
            }
        }
        assembly ("memory-safe") {
            mstore(found, n)
        }
    }

    function _passes(string memory tag, string calldata filter) private pure returns (bool) {
        return bytes(filter).length == 0 || keccak256(bytes(tag)) == keccak256(bytes(filter));
    }
}

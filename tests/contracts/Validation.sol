// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Dependent} from "./Admin.sol";

/// ERC-8004 validation registry: one request a hash, any number of answers by its validator.
contract Validation is Dependent {
    event ValidationRequest(
        address indexed validatorAddress, uint256 indexed agentId, string requestURI, bytes32 indexed requestHash
    );
    event ValidationResponse(
        address indexed validatorAddress,
        uint256 indexed agentId,
        bytes32 indexed requestHash,
        uint8 response,
        string responseURI,
        bytes32 responseHash,
        string tag
    );

    struct Request {
        address validatorAddress;
        uint8 response;
        bool answered;
        uint256 agentId;
        bytes32 responseHash;
        string tag;
        uint256 lastUpdate;
    }

    mapping(bytes32 => Request) private _requests;
    mapping(uint256 => bytes32[]) private _ofAgent;
    mapping(address => bytes32[]) private _ofValidator;

    constructor(address admin, address identity) Dependent(admin, identity) {}

    function validationRequest(
        address validatorAddress,
        uint256 agentId,
        string calldata requestURI,
        bytes32 requestHash
    ) external {
        Request storage r = _requests[requestHash];
        require(validatorAddress != address(0), "bad validator");
        require(r.validatorAddress == address(0), "exists");
        require(agents.isAuthorizedOrOwner(msg.sender, agentId), "Not authorized");
        r.validatorAddress = validatorAddress;
        r.agentId = agentId;
        r.lastUpdate = block.timestamp;
        _ofAgent[agentId].push(requestHash);
        _ofValidator[validatorAddress].push(requestHash);
        emit ValidationRequest(validatorAddress, agentId, requestURI, requestHash);
    }

    function validationResponse(
        bytes32 requestHash,
        uint8 response,
        string calldata responseURI,
        bytes32 responseHash,
        string calldata tag
    ) external {
        require(response <= 100, "resp>100");
        Request storage r = _known(requestHash);
        require(msg.sender == r.validatorAddress, "not validator");
        r.response = response;
        r.answered = true;
        r.responseHash = responseHash;
        r.tag = tag;
        r.lastUpdate = block.timestamp;
        emit ValidationResponse(msg.sender, r.agentId, requestHash, response, responseURI, responseHash, tag);
    }

    function _known(bytes32 requestHash) private view returns (Request storage r) {
        r = _requests[requestHash];
        require(r.validatorAddress != address(0), "unknown");
    }

    // Views

    function getValidationStatus(bytes32 requestHash)
        external
        view
        returns (
            address validatorAddress,
            uint256 agentId,
            uint8 response,
            bytes32 responseHash,
            string memory tag,
            uint256 lastUpdate
        )
    {
        Request storage r = _known(requestHash);
        return (r.validatorAddress, r.agentId, r.response, r.responseHash, r.tag, r.lastUpdate);
    }

    /// Answered requests only, the latest answer of each; empty filters mean any.
    function getSummary(uint256 agentId, address[] calldata validatorAddresses, string calldata tag)
        external
        view
        returns (uint64 count, uint8 avgResponse)
    {
        uint256 sum;
        bytes32[] storage hashes = _ofAgent[agentId];
        for (uint256 i; i < hashes.length; i++) {
            Request storage r = _requests[hashes[i]];
            if (!r.answered || !_listed(r.validatorAddress, validatorAddresses)) continue;
            if (bytes(tag).length > 0 && keccak256(bytes(r.tag)) != keccak256(bytes(tag))) continue;
            sum += r.response;
            count++;
        }
        if (count > 0) avgResponse = uint8(sum / count);
    }

    function _listed(address validator, address[] calldata asked) private pure returns (bool) {
        for (uint256 i; i < asked.length; i++) if (asked[i] == validator) return true;
        return asked.length == 0;
    }

    function getAgentValidations(uint256 agentId) external view returns (bytes32[] memory) {
        return _ofAgent[agentId];
    }

    function getValidatorRequests(address validatorAddress) external view returns (bytes32[] memory) {
        return _ofValidator[validatorAddress];
    }
}

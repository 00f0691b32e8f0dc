// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Admin} from "./Admin.sol";

interface IReceiver {
    function onERC721Received(address operator, address from, uint256 tokenId, bytes calldata data)
        external
        returns (bytes4);
}

interface IWallet {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

/// ERC-8004 identity registry: an ERC-721 whose token id is the agent id, counted from 0.
/// The order of its logs is that of the official contracts, call-backs included.
contract Identity is Admin {
    struct MetadataEntry {
        string metadataKey;
        bytes metadataValue;
    }

    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
    event Approval(address indexed owner, address indexed approved, uint256 indexed tokenId);
    event ApprovalForAll(address indexed owner, address indexed operator, bool approved);
    event MetadataUpdate(uint256 _tokenId);
    event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);
    event EIP712DomainChanged();
    event Registered(uint256 indexed agentId, string agentURI, address indexed owner);
    event URIUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy);
    event MetadataSet(
        uint256 indexed agentId, string indexed indexedMetadataKey, string metadataKey, bytes metadataValue
    );

    string public constant name = "AgentIdentity";
    string public constant symbol = "AGENT";
    string private constant WALLET = "agentWallet";
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant WALLET_TYPE =
        keccak256("AgentWalletSet(uint256 agentId,address newWallet,address owner,uint256 deadline)");
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    uint256 private _lastId;
    mapping(uint256 => address) private _owners;
    mapping(address => uint256) private _balances;
    mapping(uint256 => address) private _approved;
    mapping(address => mapping(address => bool)) private _operators;
    mapping(uint256 => string) private _uris;
    mapping(uint256 => mapping(string => bytes)) private _metadata;

    constructor(address admin) Admin(admin) {}

    // Registration

    function register() external returns (uint256 agentId) {
        agentId = _mint();
        emit Registered(agentId, "", msg.sender);
        _sayWallet(agentId, abi.encodePacked(msg.sender));
    }

    function register(string calldata agentURI) external returns (uint256) {
        return _register(agentURI);
    }

    function register(string calldata agentURI, MetadataEntry[] calldata metadata) external returns (uint256 agentId) {
        agentId = _register(agentURI);
        for (uint256 i; i < metadata.length; i++) {
            _setMetadata(agentId, metadata[i].metadataKey, metadata[i].metadataValue);
        }
    }

    function _register(string calldata agentURI) private returns (uint256 agentId) {
        agentId = _mint();
        _setURI(agentId, agentURI);
        emit Registered(agentId, agentURI, msg.sender);
        _sayWallet(agentId, abi.encodePacked(msg.sender));
    }

    /// The wallet is written before the mint and announced after it: a call-back that moves the token
    /// clears the wallet for good, although the last log names one.
    function _mint() private returns (uint256 agentId) {
        agentId = _lastId++;
        _metadata[agentId][WALLET] = abi.encodePacked(msg.sender);
        _owners[agentId] = msg.sender;
        _balances[msg.sender]++;
        emit Transfer(address(0), msg.sender, agentId);
        _callBack(address(0), msg.sender, agentId, "");
    }

    // Agent's content: open to the owner, his operators and the token-approved address

    modifier authorized(uint256 agentId) {
        require(isAuthorizedOrOwner(msg.sender, agentId), "Not authorized");
        _;
    }

    function setAgentURI(uint256 agentId, string calldata newURI) external authorized(agentId) {
        _setURI(agentId, newURI);
        emit URIUpdated(agentId, newURI, msg.sender);
    }

    function setMetadata(uint256 agentId, string calldata metadataKey, bytes calldata metadataValue)
        external
        authorized(agentId)
    {
        _setMetadata(agentId, metadataKey, metadataValue);
    }

    function setAgentWallet(uint256 agentId, address newWallet, uint256 deadline, bytes calldata signature)
        external
        authorized(agentId)
    {
        require(newWallet != address(0), "bad wallet");
        require(block.timestamp <= deadline, "expired");
        require(deadline <= block.timestamp + 5 minutes, "deadline too far");
        bytes32 digest = _digest(keccak256(abi.encode(WALLET_TYPE, agentId, newWallet, _owners[agentId], deadline)));
        require(_signed(newWallet, digest, signature), "invalid wallet sig");
        _metadata[agentId][WALLET] = abi.encodePacked(newWallet);
        _sayWallet(agentId, abi.encodePacked(newWallet));
    }

    function unsetAgentWallet(uint256 agentId) external authorized(agentId) {
        _clearWallet(agentId);
    }

    function _setURI(uint256 agentId, string calldata uri) private {
        _uris[agentId] = uri;
        emit MetadataUpdate(agentId);
    }

    function _setMetadata(uint256 agentId, string calldata key, bytes calldata value) private {
        require(keccak256(bytes(key)) != keccak256(bytes(WALLET)), "reserved key");
        _metadata[agentId][key] = value;
        emit MetadataSet(agentId, key, key, value);
    }

    function _clearWallet(uint256 agentId) private {
        _metadata[agentId][WALLET] = "";
        _sayWallet(agentId, "");
    }

    function _sayWallet(uint256 agentId, bytes memory value) private {
        emit MetadataSet(agentId, WALLET, WALLET, value);
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("ERC8004IdentityRegistry"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    /// An account signs with its key; a contract answers by ERC-1271.
    function _signed(address signer, bytes32 digest, bytes calldata signature) private view returns (bool) {
        if (signer.code.length > 0) {
            return IWallet(signer).isValidSignature(digest, signature) == IWallet.isValidSignature.selector;
        }
        if (signature.length != 65 || uint256(bytes32(signature[32:64])) > HALF_ORDER) return false;
        return signer
            == ecrecover(digest, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
    }

    // Views

    function ownerOf(uint256 agentId) public view returns (address holder) {
        holder = _owners[agentId];
        require(holder != address(0), "no such agent");
    }

    function isAuthorizedOrOwner(address spender, uint256 agentId) public view returns (bool) {
        address holder = ownerOf(agentId);
        return spender == holder || _operators[holder][spender] || _approved[agentId] == spender;
    }

    function tokenURI(uint256 agentId) external view returns (string memory) {
        ownerOf(agentId);
        return _uris[agentId];
    }

    function getMetadata(uint256 agentId, string calldata metadataKey) external view returns (bytes memory) {
        return _metadata[agentId][metadataKey];
    }

    function getAgentWallet(uint256 agentId) external view returns (address) {
        ownerOf(agentId);
        return address(bytes20(_metadata[agentId][WALLET]));
    }

    function balanceOf(address holder) external view returns (uint256) {
        return _balances[holder];
    }

    function getApproved(uint256 agentId) external view returns (address) {
        ownerOf(agentId);
        return _approved[agentId];
    }

    function isApprovedForAll(address holder, address operator) external view returns (bool) {
        return _operators[holder][operator];
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0x80ac58cd || id == 0x5b5e139f || id == 0x49064906;
    }

    // ERC-721

    function approve(address to, uint256 agentId) external {
        address holder = ownerOf(agentId);
        require(msg.sender == holder || _operators[holder][msg.sender], "Not authorized");
        _approved[agentId] = to;
        emit Approval(holder, to, agentId);
    }

    function setApprovalForAll(address operator, bool approved) external {
        require(operator != address(0), "bad operator");
        _operators[msg.sender][operator] = approved;
        emit ApprovalForAll(msg.sender, operator, approved);
    }

    /// Clears wallet and approval, of which only the wallet is announced, and before the Transfer.
    function transferFrom(address from, address to, uint256 agentId) public authorized(agentId) {
        require(from == _owners[agentId], "wrong owner");
        require(to != address(0), "bad receiver");
        _clearWallet(agentId);
        delete _approved[agentId];
        _balances[from]--;
        _balances[to]++;
        _owners[agentId] = to;
        emit Transfer(from, to, agentId);
    }

    function safeTransferFrom(address from, address to, uint256 agentId) external {
        safeTransferFrom(from, to, agentId, "");
    }

    function safeTransferFrom(address from, address to, uint256 agentId, bytes memory data) public {
        transferFrom(from, to, agentId);
        _callBack(from, to, agentId, data);
    }

    function _callBack(address from, address to, uint256 agentId, bytes memory data) private {
        if (to.code.length == 0) return;
        bytes4 answer = IReceiver(to).onERC721Received(msg.sender, from, agentId, data);
        require(answer == IReceiver.onERC721Received.selector, "bad receiver");
    }

    // Events of the interface that the official code never emits

    function announceBatch(uint256 fromAgentId, uint256 toAgentId) external onlyOwner {
        emit BatchMetadataUpdate(fromAgentId, toAgentId);
    }

    function announceDomain() external onlyOwner {
        emit EIP712DomainChanged();
    }
}

from __future__ import annotations

import copy
from typing import Any

import pytest
from abi_strategies import DOCUMENTS, FORMS, form_named
from eth_hash.auto import keccak

from indexer.core import abi
from indexer.core.abi import Field, compile_reader, keccak_cached, load_forms

# Every topic0 the contracts have ever emitted, current and earlier forms.
TOPICS = {
    "ca52e62c367d81bb2e328eb795f7c7ba24afb478408a26c0e201d155c449bc4a": ("identity", "Registered"),
    "3a2c7fffc2cba7582c690e3b82c453ea02a308326a98a3ad7576c606336409fb": ("identity", "URIUpdated"),
    "2c149ed548c6d2993cd73efe187df6eccabe4538091b33adbd25fafdb8a1468b": ("identity", "MetadataSet"),
    "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef": ("identity", "Transfer"),
    "8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925": ("identity", "Approval"),
    "17307eab39ab6107e8899845ad3d59bd9653f200f220920489ca2b5937696c31": ("identity", "ApprovalForAll"),
    "f8e1a15aba9398e019f0b49df1a4fde98ee17ae345cb5f6b5e2c27f5033e8ce7": ("identity", "MetadataUpdate"),
    "6bd5c950a8d8df17f772f5af37cb3655737899cbf903264b9795592da439661c": ("identity", "BatchMetadataUpdate"),
    "0a6387c9ea3628b88a633bb4f3b151770f70085117a15f9bf3787cda53f13d31": ("identity", "EIP712DomainChanged"),
    "b41beef75d9f8d55b985319b459e96f82453580af381391f1ad531eb8f8b5a3a": ("identity", "UriUpdated"),
    "2dbec70f51f7b79cc6a9d4ea913abc7d680b523e0763e3ad622612950757609c": ("identity", "MetadataSet"),
    "6a4a61743519c9d648a14e6493f47dbe3ff1aa29e7785c96c8326a205e58febc": ("reputation", "NewFeedback"),
    "54b3254e4cc01969e70376d20390cc2f6af90539d9adaa78a53ebcda17f78154": ("reputation", "NewFeedback"),
    "744ec89483257dd170f417f1c3aef90840a2d763449395ba4f09e37f78a0c98b": ("reputation", "NewFeedback"),
    "425311b4692766f8739eaeea31a86b5756c7c315d17abc22bc9e67628405d6a7": ("reputation", "NewFeedback"),
    "801d7d4264128f6f43835850f1fabb91902c3543c3738f1f62fbf7e9fd80531d": ("reputation", "NewFeedback"),
    "31f01d2aa5cdbe0619011211e9ffc39d678bc82e46d60c35953396ae61e896d8": ("reputation", "NewFeedback"),
    "a96589249279e205e9aa2d2299594d8c5c745cf90e49514145db5dbdea256240": ("reputation", "NewFeedback"),
    "413f2d30fdbc0b49e55537333a7c6287556f671f40c7e2dc00fc7ca1ced350da": ("reputation", "NewFeedback"),
    "25156fd3288212246d8b008d5921fde376c71ed14ac2e072a506eb06fde6d09d": ("reputation", "FeedbackRevoked"),
    "b1c6be0b5b8aef6539e2fac0fd131a2faa7b49edf8e505b5eb0ad487d56051d4": ("reputation", "ResponseAppended"),
    "91a4f57c12b47a488ba7365f0e60d24a1348fc94afddf6c60e0e22b018365408": ("reputation", "ResponseAppended"),
    "530436c3634a98e1e626b0898be2f1e9980cc1bd2a78c07a0aba52d0a48a5059": ("validation", "ValidationRequest"),
    "afddf629e874ccc3963b6a888c477bd464a6c8525024fc88759ea3b2326349ae": ("validation", "ValidationResponse"),
    "f224d3d5ad74301be48e4d51ca5f1b24c7946875887327585becc59165297dcf": ("validation", "ValidationResponse"),
    "cc61e07d65464186112fdaddb4b11ccef1928644b11f17e2864b38b451195671": ("validation", "ValidationResponse"),
    "bc7cd75a20ee27fd9adebab32041f755214dbc6bffa90cc0225b39da2e5c2d3b": ("proxy", "Upgraded"),
    "8be0079c531659141344cd1fd0a4f28419497f9722a3daafe3b4186f6b6457e0": ("proxy", "OwnershipTransferred"),
    "c7f505b2f371ae2175ee4913f4499e1f2633a7b5936321eed1cdaeb6115181d2": ("proxy", "Initialized"),
    "7f26b83ff96e1f2b6a682f133852f6798a09c465da95921460cefb3847402498": ("proxy", "Initialized"),
}


def document(**changes: object) -> dict[str, Any]:
    """Return the document of Registered with some keys replaced."""
    return {**copy.deepcopy(DOCUMENTS["identity/registered"]), **changes}


def test_every_event_form_ever_emitted_is_there() -> None:
    assert {form.topic0.hex(): (form.registry, form.event) for form in FORMS} == TOPICS


def test_versions_tell_the_forms_of_an_event_apart() -> None:
    assert len({(form.event, form.version) for form in FORMS}) == len(FORMS)


def test_every_form_says_where_and_when_it_was_emitted() -> None:
    assert all(item["emitted"].endswith(".") for item in DOCUMENTS.values())


def test_fields_keep_the_order_of_the_abi() -> None:
    assert form_named("ResponseAppended").fields == (
        Field("agentId", "uint256", indexed=True),
        Field("clientAddress", "address", indexed=True),
        Field("feedbackIndex", "uint64", indexed=False),
        Field("responder", "address", indexed=True),
        Field("responseURI", "string", indexed=False),
        Field("responseHash", "bytes32", indexed=False),
    )


def test_forms_come_in_the_same_order_whatever_the_order_of_the_files() -> None:
    assert load_forms(dict(reversed(DOCUMENTS.items()))) == FORMS


@pytest.mark.parametrize(
    ("documents", "complaint"),
    [
        ({"identity/x": document(topic0="0x" + "00" * 32)}, "identity/x: topic0 is not the keccak of Registered"),
        ({"identity/x": document(topic0="0xzz")}, "identity/x: not an event form"),
        ({"identity/x": document(topic0=7)}, "identity/x: not an event form"),
        ({"identity/x": document(event={"name": "Registered"})}, "identity/x: not an event form"),
        ({"identity/x": {}}, "identity/x: not an event form"),
        ({"registrar/x": document()}, "registrar/x: no such registry"),
        ({"identity/x": document(), "identity/y": document()}, "identity/y: topic0 or version .* is there already"),
    ],
    ids=["other hash", "no hex", "no text", "no inputs", "empty", "unknown registry", "twice"],
)
def test_a_document_that_lies_is_refused_by_its_key(documents: dict[str, dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_forms(documents)


@pytest.mark.parametrize("abi_type", ["uint", "uint7", "int264", "bytes4", "uint256[]", "tuple", "", "uintint8"])
def test_a_type_without_a_reader_is_refused(abi_type: str) -> None:
    event = {"name": "Odd", "inputs": [{"name": "x", "type": abi_type, "indexed": False}]}
    topic0 = keccak(f"Odd({abi_type})".encode()).hex()

    with pytest.raises(ValueError, match="not supported"):
        load_forms({"proxy/odd": {"event": event, "topic0": topic0, "version": "1"}})


def test_each_form_compiles_by_itself() -> None:
    assert all(callable(compile_reader(form)) for form in FORMS)


@pytest.mark.parametrize("size", [0, 1, 64, 65, 100_000])
def test_remembered_hashes_are_the_hashes(size: int) -> None:
    text = b"t" * size

    assert keccak_cached(text) == keccak_cached(text) == keccak(text)


def test_long_texts_are_not_remembered() -> None:
    held = abi._keccak_short.cache_info().currsize

    keccak_cached(b"a text that nobody else hashes".ljust(65))

    assert abi._keccak_short.cache_info().currsize == held

"""The handshake: who does not know the key learns nothing and gets nowhere."""

import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.wiring import KEY, identity

from perdure.cluster.frames import VERSION
from perdure.cluster.handshake import (
    MESSAGE_BYTES_MAX,
    ClientHandshake,
    Handshake,
    ServerHandshake,
)

OTHER_KEY = b"another key, as long as the first"


def client(key: bytes = KEY, **options: tuple[int, int]) -> ClientHandshake:
    return ClientHandshake(identity(1), key, **options)


def server(key: bytes = KEY, **options: tuple[int, int]) -> ServerHandshake:
    return ServerHandshake(identity(2), key, **options)


def meet(one: Handshake, other: Handshake) -> list[bytes]:
    """Pass messages on until there are none; returns them, the server's nonce first."""
    messages = [other.begin()]
    receiver, sender = one, other
    while messages[-1]:
        messages.append(receiver.receive(messages[-1]))
        receiver, sender = sender, receiver
    return messages[:-1]


def test_both_ends_learn_who_the_other_is() -> None:
    one, other = client(), server()
    messages = meet(one, other)
    assert (one.peer, other.peer) == (identity(2), identity(1))
    assert (one.version, other.version) == (VERSION, VERSION)
    assert (one.error, other.error) == (None, None)
    assert len(messages) == 3


def test_a_client_with_another_key_sees_a_nonce_and_no_more() -> None:
    one, other = client(OTHER_KEY), server()
    nonce, _hello = meet(one, other)
    assert len(nonce) == 2 + 32
    assert other.error is not None
    assert (one.peer, other.peer) == (None, None)


def test_a_server_with_another_key_is_not_believed() -> None:
    """It lets anybody in, to make the client talk: it cannot prove itself."""
    one, other, accomplice = client(), server(OTHER_KEY), client(OTHER_KEY)
    nonce = other.begin()
    one.receive(nonce)
    proof = other.receive(accomplice.receive(nonce))
    assert proof
    assert one.receive(proof) == b""
    assert one.peer is None
    assert one.error is not None


def test_a_replayed_client_gets_nowhere() -> None:
    messages = meet(client(), server())
    other = server()
    other.begin()
    assert other.receive(messages[1]) == b""
    assert other.error is not None


def test_a_replayed_server_gets_nowhere() -> None:
    """The same nonce again, and the proof that once went with it."""
    messages = meet(client(), server())
    one = client()
    one.receive(messages[0])
    one.receive(messages[2])
    assert one.peer is None
    assert one.error is not None


def test_a_servers_own_proof_does_not_open_it() -> None:
    """Reflection: one server is asked to answer another's nonce, as a client would."""
    nonce = server().begin()
    helper = server()
    helper._nonce = nonce[2:]
    one = client()
    reflected = helper.receive(one.receive(nonce))
    other = server()
    other._nonce = nonce[2:]
    assert other.receive(reflected) == b""
    assert other.error is not None


def test_a_clients_own_proof_does_not_satisfy_it() -> None:
    one = client()
    hello = one.receive(server().begin())
    one.receive(hello)
    assert one.peer is None
    assert one.error is not None


@pytest.mark.parametrize("place", [2, 33, 34, 60, -1])
def test_a_changed_bit_is_noticed(place: int) -> None:
    one, other = client(), server()
    hello = bytearray(one.receive(other.begin()))
    hello[place] ^= 1
    assert other.receive(bytes(hello)) == b""
    assert other.error is not None
    one, other = client(), server()
    reply = bytearray(other.receive(one.receive(other.begin())))
    reply[place] ^= 1
    one.receive(bytes(reply))
    assert one.error is not None


def test_the_servers_answer_rests_on_what_the_client_told() -> None:
    """Somebody in between who knows the key of neither cannot mix two handshakes."""
    one, another, other = client(), client(), server()
    nonce = other.begin()
    one.receive(nonce)
    one.receive(other.receive(another.receive(nonce)))
    assert one.peer is None
    assert one.error is not None


def test_messages_may_come_in_any_pieces() -> None:
    one, other = client(), server()
    for byte in other.begin():
        reply = one.receive(bytes([byte]))
    hello, reply = reply, b""
    for byte in hello:
        reply += other.receive(bytes([byte]))
    for byte in reply:
        one.receive(bytes([byte]))
    assert (one.peer, other.peer) == (identity(2), identity(1))


def test_what_comes_behind_the_handshake_is_kept() -> None:
    one, other = client(), server()
    hello = one.receive(other.begin())
    reply = other.receive(hello + b"frames of the client")
    one.receive(reply + b"frames of the server")
    assert other.rest == b"frames of the client"
    assert one.rest == b"frames of the server"


def test_half_a_message_is_waited_for() -> None:
    one, other = client(), server()
    hello = one.receive(other.begin())
    assert other.receive(hello[:-1]) == b""
    assert (other.peer, other.error) == (None, None)


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_message_that_is_too_long_is_refused_before_it_came(end: str) -> None:
    one: Handshake = client() if end == "client" else server()
    one.begin()
    one.receive((MESSAGE_BYTES_MAX + 1).to_bytes(2, "big"))
    assert one.error is not None
    assert one.receive(b"x" * 9000) == b""
    assert one._held == b""


def test_the_newest_version_that_both_speak_is_chosen() -> None:
    one, other = client(versions=(1, 3)), server(versions=(2, 5))
    meet(one, other)
    assert (one.version, other.version) == (3, 3)
    one, other = client(versions=(2, 5)), server(versions=(1, 3))
    meet(one, other)
    assert (one.version, other.version) == (3, 3)


@pytest.mark.parametrize("ranges", [((1, 2), (3, 4)), ((3, 4), (1, 2))])
def test_without_a_common_version_both_log_which_ones_met(
    ranges: tuple[tuple[int, int], tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = client(versions=ranges[0]), server(versions=ranges[1])
    with caplog.at_level(logging.ERROR, "perdure.cluster"):
        meet(one, other)
    assert (one.peer, other.peer) == (None, None)
    assert one.error is not None
    assert other.error is not None
    logged = [(record.versions, record.peer_versions) for record in caplog.records]
    mine, theirs = list(ranges[0]), list(ranges[1])
    assert logged == [(theirs, mine), (mine, theirs)]


def test_a_stranger_cannot_make_it_log_versions(caplog: pytest.LogCaptureFixture) -> None:
    one, other = client(OTHER_KEY, versions=(8, 9)), server()
    meet(one, other)
    assert caplog.records == []


def test_a_newer_hello_may_hold_more() -> None:
    one, other = client(), server()
    values = [*msgspec.msgpack.decode(one._hello), "new", {"field": 1}]
    one._hello = msgspec.msgpack.encode(values)
    meet(one, other)
    assert (one.peer, other.peer) == (identity(2), identity(1))


@pytest.mark.parametrize("hello", [b"", b"\xc1", b"\x90", b"\x94\xa2\xff\xff\x01\x01\xc0"])
def test_a_hello_that_cannot_be_read_is_refused_even_with_the_key(hello: bytes) -> None:
    one, other = client(), server()
    one._hello = hello
    meet(one, other)
    assert other.peer is None
    assert other.error is not None


def test_a_short_key_is_refused_without_being_told() -> None:
    with pytest.raises(ValueError, match="5 bytes") as caught:
        client(b"hello")
    assert "hello" not in str(caught.value)


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans(), st.booleans())
def test_random_bytes_open_nothing(pieces: list[bytes], is_server: bool, framed: bool) -> None:
    one: Handshake = server() if is_server else client()
    one.begin()
    sent = b""
    for piece in pieces:
        sent += one.receive(len(piece).to_bytes(2, "big") + piece if framed else piece)
    assert one.peer is None
    assert not is_server or sent == b""
    assert len(one._held) <= MESSAGE_BYTES_MAX + 2


@given(st.data())
def test_no_changed_handshake_opens(data: st.DataObject) -> None:
    """One message is cut, grown or changed somewhere: neither end takes it."""
    one, other = client(), server()
    hello = one.receive(other.begin())
    start = data.draw(st.integers(0, len(hello) - 1))
    end = data.draw(st.integers(start, len(hello)))
    changed = hello[:start] + data.draw(st.binary(max_size=40)) + hello[end:]
    other.receive(changed)
    assert other.peer is None or changed.startswith(hello)

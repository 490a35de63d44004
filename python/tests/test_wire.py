from __future__ import annotations

import socket
import struct
import threading

import pytest

from shoal import _pickling, _wire
from shoal._inbox import Inbox

np = pytest.importorskip("numpy")


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    yield a, b
    a.close()
    b.close()


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def test_frames_arrive_as_they_were_sent(pair):
    a, b = pair
    sizes = [1, 2, 1000, _wire._SCRATCH - 5, _wire._SCRATCH - 4, _wire._SCRATCH - 3, 3_000_000, 7]
    bodies = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    sender = threading.Thread(target=lambda: (a.sendall(b"".join(map(frame, bodies))), a.close()))
    sender.start()
    reader = _wire.FrameReader(b)
    assert [reader.read() for _ in sizes] == bodies
    assert reader.read() is None
    sender.join()


@pytest.mark.parametrize("cut", [1, 3, 5, 9])
def test_frames_in_any_pieces(pair, cut):
    a, b = pair
    data = b"".join(frame(bytes([i]) * (i + 1)) for i in range(20))
    sender = threading.Thread(target=lambda: [a.sendall(data[i : i + cut]) for i in range(0, len(data), cut)])
    sender.start()
    reader = _wire.FrameReader(b)
    got = []
    while len(got) < 20:
        got.append(reader.read())
    assert got == [bytes([i]) * (i + 1) for i in range(20)]
    sender.join()


def test_early_bytes_come_first(pair):
    a, b = pair
    whole = frame(b"one") + frame(b"two")
    a.sendall(whole[6:])
    inbox = Inbox(whole[:6])
    got = inbox.frames()
    while len(got) < 2:
        assert inbox.fill(b)
        got += inbox.frames()
    assert got == [b"one", b"two"]


def test_a_frame_is_its_own_writable_memory(pair):
    a, b = pair
    a.sendall(frame(b"abc") + frame(b"def"))
    reader = _wire.FrameReader(b)
    first = reader.read()
    first[0] = 0
    assert reader.read() == b"def"


@pytest.mark.parametrize("length", [0, 1001, 0xFFFFFFFF])
def test_bad_lengths_are_protocol_errors(pair, length):
    a, b = pair
    a.sendall(struct.pack("<I", length) + b"x")
    with pytest.raises(_wire.ProtocolError, match=str(length)):
        _wire.FrameReader(b, limit=1000).read()


@pytest.mark.parametrize("data", [b"\x01", frame(b"abcdef")[:-1], frame(b"x" * 400_000)[:-1]])
def test_an_end_inside_a_frame_is_a_protocol_error(pair, data):
    a, b = pair
    sender = threading.Thread(target=lambda: (a.sendall(data), a.close()))
    sender.start()
    with pytest.raises(_wire.ProtocolError, match="middle"):
        _wire.FrameReader(b).read()
    sender.join()


@pytest.mark.parametrize("sizes", [[10, 20], [10, 2_000_000, 5, 300_000, 7]])
def test_send_parts_sends_them_in_order(pair, sizes):
    a, b = pair
    parts = [bytes([i]) * size for i, size in enumerate(sizes)]
    body = b"".join(parts)
    framed = [struct.pack("<I", len(body)), *parts]
    sender = threading.Thread(target=_wire.send_parts, args=(a, framed, 4 + len(body)))
    sender.start()
    assert _wire.FrameReader(b).read() == body
    sender.join()


class Local:
    def __init__(self, x):
        self.x = x


def test_pickles_round_trip_with_big_buffers_beside_them():
    big, small = np.arange(100_000.0), np.arange(3)
    data, buffers = _pickling.dumps({"big": big, "small": small, "plain": Local(3)})
    assert [b.nbytes for b in buffers] == [big.nbytes]
    assert len(data) < 2000
    back = _pickling.loads(bytearray(data) + b"".join(buffers), [b.nbytes for b in buffers])
    assert (back["big"] == big).all()
    assert back["small"].tolist() == [0, 1, 2]
    assert back["plain"].x == 3
    back["big"][0] = 7  # writable


def test_what_pickle_cannot_say_goes_through_cloudpickle():
    data, buffers = _pickling.dumps(lambda x: x + 1)
    assert _pickling.loads(data, [b.nbytes for b in buffers])(1) == 2


def test_what_nobody_can_pickle_is_an_error():
    with pytest.raises(TypeError, match="lock"):
        _pickling.dumps(threading.Lock())

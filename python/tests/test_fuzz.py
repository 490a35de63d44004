"""What comes from outside is decoded or refused, whatever it holds: all decoders of the SDK, with Hypothesis.

`make fuzz` has each of them tried for longer (SHOAL_FUZZ is how many examples).
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shoal import _answers, _errors, _link, _wire
from shoal._batch import Batch
from shoal._wire import U32, FrameReader, ProtocolError

pytest.importorskip("numpy")
# Hypothesis draws constants from the modules that are loaded; those that load late would change its draws.
pytest.importorskip("werkzeug.datastructures")

fuzz = settings(
    max_examples=int(os.environ.get("SHOAL_FUZZ", "100")),
    deadline=None,
    database=None,
    derandomize="SHOAL_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

texts = st.text(max_size=20)
scalars: Any = st.none() | st.booleans() | st.integers() | st.floats() | texts
values: Any = scalars | st.lists(scalars, max_size=4) | st.dictionaries(texts, scalars, max_size=3)
keys = st.sampled_from(
    ["encoding", "buffers", "method", "headers", "data", "kwargs", "type", "message", "status"]
)
objects = st.dictionaries(keys, values, max_size=6)
documents = (objects | values).map(lambda value: json.dumps(value).encode())
pickles = st.tuples(values, st.dictionaries(texts, values, max_size=3)).map(
    lambda call: pickle.dumps(call, 5)
)
payloads = documents | pickles | st.binary(max_size=60)


def batch_frame(origin: int, flags: int, method: bytes, items: list[tuple[bytes, bytes]]) -> bytearray:
    lengths = [len(part) for item in items for part in item]
    head = _wire.BATCH_HEAD.pack(origin, flags, len(method), len(items), 7)
    data = b"".join(part for item in items for part in item)
    return bytearray(
        bytes([_wire.BATCH]) + head[1:] + struct.pack(f"<{len(lengths)}I", *lengths) + method + data
    )


@fuzz
@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.tuples(documents | st.binary(max_size=30), payloads), max_size=4),
)
@example(2, 0, [(b"[]", b"")])
@example(2, 0, [(b"3", b"x")])
@example(2, 0, [(b'{"encoding":"json"}', b"[1]")])
@example(2, 0, [(b'{"encoding":"json"}', b'{"kwargs":[1]}')])
@example(2, 0, [(b'{"buffers":[-1]}', b"x"), (b'{"buffers":5}', b""), (b'{"headers":3,"method":[]}', b"")])
def test_any_batch_is_one_of_as_many_queries(
    origin: int, flags: int, items: list[tuple[bytes, bytes]]
) -> None:
    batch = Batch(batch_frame(origin, flags, b"", items))
    assert len(batch.requests) == batch.size == len(items)
    if batch.api:
        assert len(batch.kwargs) == len(batch.plain) == len(items)
        assert all(isinstance(kwargs, dict) for kwargs in batch.kwargs)
        assert all(isinstance(fault, BaseException) for fault in batch.faults.values())
    for request in batch.requests:
        for name in ("args", "headers", "json", "data", "form", "method", "path"):
            try:
                getattr(request, name)
            except (_errors.Error, ValueError, UnicodeError):
                pass  # it is told to the one whose query it is


@fuzz
@given(st.binary(max_size=80), st.integers(0, 80))
def test_a_frame_of_a_batch_that_is_garbage_is_a_protocol_error(noise: bytes, cut: int) -> None:
    whole = batch_frame(2, 0, b"m", [(b"{}", noise)])
    for frame in (bytearray(bytes([_wire.BATCH]) + noise), whole[: max(1, min(cut, len(whole) - 1))]):
        try:
            Batch(frame)
        except (ProtocolError, UnicodeDecodeError):
            pass


@fuzz
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50), st.binary(max_size=9))
def test_frames_arrive_whole_or_not_at_all(bodies: list[bytes], cut: int, rest: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = b"".join(U32.pack(len(body)) + body for body in bodies) + rest
        for i in range(0, len(stream), cut):
            ours.sendall(stream[i : i + cut])
        ours.shutdown(socket.SHUT_WR)
        reader = FrameReader(theirs, limit=1000)
        assert [reader.read() for _ in bodies] == bodies
        try:
            while reader.read() is not None:
                pass
        except ProtocolError:
            assert rest


@fuzz
@given(
    st.integers(0, 9), payloads | st.tuples(st.integers(0, 3), payloads).map(lambda p: U32.pack(p[0]) + p[1])
)
@example(5, b"")
@example(5, U32.pack(2) + b"[]")
@example(5, U32.pack(1) + b"3")
@example(5, U32.pack(17) + b'{"status":"many"}')
@example(5, U32.pack(15) + b'{"headers":[1]}')
@example(6, b"")
@example(6, U32.pack(1 << 31))
def test_any_answer_is_a_value_or_an_exception(code: int, payload: bytes) -> None:
    try:
        _link.decode_answer(code, memoryview(payload))
    except Exception:
        pass  # and nothing else, such as a SystemExit or a hang


@fuzz
@given(values, st.dictionaries(texts, values, max_size=3))
def test_what_is_packed_comes_back(data: Any, kwargs: dict[str, Any]) -> None:
    code, payload = _answers.encode_pickle([data, kwargs])
    packed = payload if isinstance(payload, bytes) else b"".join(payload)
    assert repr(_link.decode_answer(code, memoryview(packed))) == repr([data, kwargs])

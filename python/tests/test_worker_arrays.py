"""Models that take arrays, in a real worker process."""

from __future__ import annotations

import re
from typing import Annotated, Any, Optional

import numpy as np
import numpy.typing as npt
import pytest

from shoal import serve
from shoal._array_spec import annotated_arrays
from worker_server import RemoteError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


def errors(answers):
    return [str(a) if isinstance(a, RemoteError) else a for a in answers]


def test_arrays_true_gives_every_parameter_an_array(worker):
    @serve.accept_batch(arrays=True)
    def model(x, y=None):
        return x + (1 if y is None else y)

    server = worker(model, max_batch_size=4)
    assert server.ready["arrays"] == {
        "": {"inputs": [{"name": "x"}, {"name": "y", "optional": True}], "requests": False}
    }
    x = np.arange(6).reshape(3, 2)
    assert (server.arrays({"x": x}) == x + 1).all()
    assert (server.arrays({"x": x, "y": x * 10}) == x * 11).all()


def test_every_datatype_and_shape_comes_back(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return {"same": x, "turned": x[::-1]}

    server = worker(model, max_batch_size=4)
    for dtype in DTYPES:
        for shape in [(1,), (3,), (3, 2), (2, 3, 4), (2, 0)]:
            x = (np.arange(np.prod(shape)) % 5).astype(dtype).reshape(shape)
            answers = server.arrays({"x": x})
            for name, want in {"same": x, "turned": x[::-1]}.items():
                assert answers[name].dtype == dtype
                assert np.array_equal(answers[name], want)


def test_annotations_declare_arrays_and_leave_the_requests(worker):
    @serve.accept_batch
    def model(
        requests,
        x: npt.NDArray[np.float32],
        y: np.ndarray | None = None,
        z: Annotated[np.ndarray, serve.Array("int64", pad="longest", pad_value=-1)] = None,
        z_mask: npt.NDArray[np.bool_] | None = None,
    ):
        return [f"{r.path} {v}" for r, v in zip(requests, x, strict=True)]

    server = worker(model, max_batch_size=4)
    assert server.ready["arrays"][""] == {
        "requests": True,
        "inputs": [
            {"name": "x", "dtype": "float32"},
            {"name": "y", "optional": True},
            {
                "name": "z",
                "dtype": "int64",
                "pad": "longest",
                "pad_value": -1,
                "optional": True,
                "mask": True,
            },
        ],
    }
    requests = [(b"GET /a\nid\n", b""), (b"GET /b\nid\n", b"body")]
    assert server.arrays({"x": np.float32([1, 2])}, requests=requests) == ["/a 1.0", "/b 2.0"]


def test_a_handles_requests_come_along_as_placeholders(worker):
    @serve.accept_batch
    def model(requests, x: npt.NDArray[np.float32]):
        return [[r.args["x"], r.headers.get("A"), type(r).__name__, serve.context.web] for r in requests]

    head = b'{"encoding": "json", "headers": {"A": "b"}}'
    requests = [(head, b'{"kwargs": {"x": 1}}'), (head, b'{"data": null, "kwargs": {"x": 2}}')]
    server = worker(model, max_batch_size=4)
    want = [[1, "b", "Placeholder", False], [2, "b", "Placeholder", False]]
    assert server.arrays({"x": np.float32([1, 2])}, requests=requests, api=True) == want
    assert server.api({"x": 1.0}, {"x": 2.0}, options={"headers": {"A": "b"}}) == want


UNREADABLE = [b'{"x": "\xff"}', b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
UNREADABLE += [b'{"x": ' + b"9" * 5000 + b"}", b"", b"[]", b'{"headers": 1}']


@pytest.mark.parametrize("head", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_handles_head_that_cannot_be_read_is_an_empty_one(worker, head):
    @serve.accept_batch
    def model(requests, x: npt.NDArray[np.float32]):
        return [[r.args["x"], len(r.headers)] for r in requests]

    server = worker(model, max_batch_size=4)
    requests = [(head, b'{"kwargs": {"x": 1}}'), (b'{"headers": {"A": "b"}}', b'{"kwargs": {"x": 2}}')]
    assert server.arrays({"x": np.float32([1, 2])}, requests=requests, api=True) == [[1, 0], [2, 1]]


def test_a_batch_of_arrays_that_cannot_be_read_is_an_error_and_the_worker_lives(worker):
    @serve.accept_batch
    def model(requests, x: npt.NDArray[np.float32]):
        return x

    server = worker(model, max_batch_size=4, shared=1 << 20)
    x = {"x": np.float32([1])}
    for at, room in [(None, (0, 0)), (0, (65536, 65536))]:
        with pytest.raises(RemoteError, match="can't decode"):
            server.arrays(x, requests=[(b"{}", b'{"data": "\xff"}')], api=True, at=at, room=room)
        assert server.arrays(x, requests=[(b"{}", b"{}")], api=True, at=at, room=room) == [1]


@pytest.mark.parametrize(
    ("annotation", "dtype"),
    [
        (np.ndarray, None),
        (npt.NDArray[np.float32], "float32"),
        (npt.NDArray[Any], None),
        (npt.NDArray[np.floating], None),
        (Optional[npt.NDArray[np.int8]], "int8"),  # noqa: UP045
        (np.ndarray[Any, np.dtype[np.uint8]] | None, "uint8"),
        (Annotated[npt.NDArray[np.bool_], "words"], "bool"),
        (Annotated[np.ndarray, "words", serve.Array(int)], "int64"),
        ("npt.NDArray[np.float64]", "float64"),
        (list[np.ndarray], ...),
        (npt.ArrayLike, ...),
        (int, ...),
    ],
)
def test_what_an_annotation_declares(annotation, dtype):
    def model(x):
        return x

    model.__annotations__ = {"x": annotation}
    found = annotated_arrays(model)
    assert {name: array.dtype for name, array in found.items()} == ({} if dtype is ... else {"x": dtype})


def test_an_annotated_datatype_that_does_not_travel_fails_the_load(worker):
    @serve.accept_batch
    def model(x: npt.NDArray[np.complex64]):
        return x

    assert "dtype 'complex64' is not one of" in worker(model, max_batch_size=4).failed["message"]


def test_annotations_of_other_things_are_not_evaluated(worker):
    @serve.accept_batch
    def model(requests: list[NoSuchType], *, number: AnotherType):  # noqa: F821
        return number

    assert worker(model, max_batch_size=4).ready["arrays"] == {}


def test_methods_have_signatures_of_their_own(worker):
    class Model:
        @serve.accept_batch(arrays={"x": serve.Array("float32", shape=(None, 3), pad=[4, 8])})
        def __call__(self, x, x_mask, x_lengths):
            return x

        @serve.accept_batch
        def listed(self, requests, *, x):
            return x

        @serve.accept_batch(arrays=True)
        def twice(self, a):
            return a * 2

    server = worker(Model, max_batch_size=4)
    assert server.ready["arrays"] == {
        "": {
            "requests": False,
            "inputs": [
                {
                    "name": "x",
                    "dtype": "float32",
                    "shape": [-1, 3],
                    "pad": [4, 8],
                    "pad_value": 0,
                    "mask": True,
                    "lengths": True,
                }
            ],
        },
        "twice": {"requests": False, "inputs": [{"name": "a"}]},
    }
    assert server.arrays({"a": np.array([3])}, method="twice") == [6]
    assert server.api({"x": 1}, method="listed") == [1]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        ({"arrays": {"z": "float32"}}, "has no parameter 'z'"),
        ({"arrays": {"x": "float23"}}, "did you mean 'float32'?"),
        ({"arrays": {"x": "complex64"}}, "dtype 'complex64' is not one of"),
        ({"arrays": ["x"]}, "arrays must be True or a dict"),
    ],
)
def test_a_declaration_that_cannot_be_fails_the_load(worker, declare, message):
    @serve.accept_batch(**declare)
    def model(x):
        return x

    assert message in worker(model, max_batch_size=4).failed["message"]


def test_parameters_without_a_name_cannot_be_arrays(worker):
    @serve.accept_batch(arrays=True)
    def model(x, **more):
        return x

    assert "**more cannot be an array" in worker(model, max_batch_size=4).failed["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad": [8, 4]}, "growing lengths"),
        ({"pad": "shortest"}, "growing lengths"),
        ({"pad": []}, "growing lengths"),
        ({"pad_value": 1}, "without pad"),
        ({"shape": (0,)}, "at least 1"),
        ({"shape": (3,), "pad": "longest"}, "must be None"),
    ],
)
def test_an_array_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        serve.Array(**arguments)


def test_answers_item_by_item(worker):
    @serve.accept_batch(arrays=True)
    def model(kind):
        n = len(kind)
        return {
            0: [{"a": 1}, ValueError("one bad"), None, "text"][:n],
            1: np.array(["a", "b"])[:n],
            2: {"name": ["a", "b"], "n": np.arange(2)},
            3: (1, 2),
            4: np.arange(4, dtype=">i4").reshape(2, 2),
            5: np.datetime64("2020-01-01") + np.arange(2),
        }[kind.flat[0]]

    server = worker(model, max_batch_size=4)

    def ask(kind, n=2):
        return server.arrays({"kind": np.full(n, kind)})

    assert errors(ask(0, 4)) == [{"a": 1}, "ValueError: one bad", None, "text"]
    assert ask(1) == ["a", "b"]
    assert ask(2) == [{"name": "a", "n": 0}, {"name": "b", "n": 1}]
    assert ask(3) == [1, 2]
    big = ask(4)
    assert big.dtype == "<i4"
    assert big.tolist() == [[0, 1], [2, 3]]
    assert [a.error["type"] for a in ask(5)] == ["TypeError"] * 2


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("np.float64(3)", "must return a list"),
        ("{}", "a dict with nothing"),
        ("{'a': 1}", "'a' of shape ()"),
        ("{'a': x, 'b': x[:1]}", "different numbers of answers"),
        ("None", "it returned NoneType"),
    ],
)
def test_what_is_no_batch_of_answers_is_an_error(worker, result, message):
    @serve.accept_batch(arrays=True)
    def model(x):
        return eval(result, {"x": x, "np": np})

    with pytest.raises(RemoteError, match=re.escape(message)):
        worker(model, max_batch_size=4).arrays({"x": np.arange(2)})


def test_the_number_of_answers_is_told_as_it_is(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return x[:1]

    assert worker(model, max_batch_size=4).arrays({"x": np.arange(3)}).tolist() == [0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_queries_that_share_one_of_several_calls_only_the_guilty_fails(worker, asynchronous):
    def add_one(x):
        print(len(x), flush=True)
        x += 1  # in place: nobody else may see it
        if (x < 0).any():
            raise ValueError(f"a negative number among {len(x)}")
        return x

    @serve.accept_batch(arrays=True)
    def model(x):
        return add_one(x)

    @serve.accept_batch(arrays=True)
    async def async_model(x):
        return add_one(x)

    server = worker(async_model if asynchronous else model, max_batch_size=16)
    for guilty in range(8):
        calls = [{"x": [100 * (i != guilty) - 50, i]} for i in range(8)]
        answers = server.api({"x": [1, 2, 3]}, *calls, {"x": 5})
        assert answers[0].tolist() == [2, 3, 4]
        assert answers[9] == 6
        assert str(answers[guilty + 1].error["message"]) == "a negative number among 1"
        for i in range(8):
            if i != guilty:
                assert answers[i + 1].tolist() == [51, i + 1]
    sizes = server.finish()[1].split()
    assert len(sizes) <= 8 * (3 + 2 * 3)


def test_a_model_that_must_not_be_called_twice_is_not(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        print(len(x), flush=True)
        if x.ndim > 1:
            raise ValueError(f"{len(x)} together")
        return x

    server = worker(model, max_batch_size=16, isolate=False)
    answers = server.api({"x": [1, 2]}, {"x": [3, 4]}, {"x": 5})
    assert [answer.error["message"] for answer in answers[:2]] == ["2 together"] * 2
    assert answers[2] == 5
    assert server.finish()[1].split() == ["2", "1"]


def test_a_model_that_raises_fails_the_batch_and_lives_on(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        if x[0] < 0:
            raise ValueError("negative")
        return x

    server = worker(model, max_batch_size=4)
    with pytest.raises(RemoteError, match="negative"):
        server.arrays({"x": np.array([-1])})
    assert server.arrays({"x": np.array([1])}) == [1]


def test_async_functions_and_threads_take_arrays(worker):
    @serve.accept_batch(arrays=True)
    async def model(x):
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    @serve.accept_batch(arrays=True)
    def plain(x):
        return x + 1

    for target, concurrency in ((model, 1), (model, 2), (plain, 2)):
        server = worker(target, max_batch_size=4, concurrency=concurrency)
        assert server.arrays({"x": np.arange(3)}).tolist() == [1, 2, 3]
        assert server.api({"x": 1}, {"x": 2}) == [2, 3]


# Handles


def test_a_handles_queries_are_stacked(worker):
    @serve.accept_batch(arrays=True)
    def model(x, y=None):
        print(x.shape, x.dtype, y is None)
        return x * 2

    server = worker(model, max_batch_size=8)
    assert server.api({"x": 1}, {"x": 2}) == [2, 4]
    assert [a.tolist() for a in server.api({"x": [1, 2]}, {"x": (3, 4)})] == [[2, 4], [6, 8]]
    assert [a.dtype for a in server.api({"x": np.float32([1, 2])}, {"x": np.float32([3, 4])})] == [
        "float32"
    ] * 2
    assert server.api({"x": 1}, {"x": 1.5}, {"x": 2}) == [2, 3.0, 4]
    assert server.api({"x": 1}, {"x": 2, "y": 3}) == [2, 4]
    right, wrong = server.api((5, {}), (6, {"x": 6}))
    assert right == 10
    assert "got multiple values for argument 'x'" in str(wrong)
    assert server.json_api({"kwargs": {"x": [1, 2]}}, {"data": [3, 4]}) == [[2, 4], [6, 8]]
    assert server.finish()[1].splitlines() == [
        "(2,) int64 True",
        "(2, 2) int64 True",
        "(2, 2) float32 True",
        "(2,) int64 True",
        "(1,) float64 True",
        "(1,) int64 True",
        "(1,) int64 False",
        "(1,) int64 True",
        "(2, 2) int64 True",
    ]


def test_a_handles_query_that_cannot_be_right_fails_alone(worker):
    @serve.accept_batch(arrays={"x": serve.Array("int8", shape=(2,)), "y": "float32"})
    def model(x, y=0):
        return x.sum(axis=1)

    server = worker(model, max_batch_size=16)
    answers = server.api(
        {"x": [1, 2]},
        {"x": [1, 2, 3]},
        {"x": [1, 1000]},
        {"x": [1.0, 2.0]},
        {"x": "text"},
        {"x": [[1], [2, 3]]},
        {"z": 1},
        {"x": [1, 2], "z": 1},
        {"x": [1, 2], "y": 1e300},
        b"no pickle",
        {"x": [3, 4]},
    )
    assert answers[0] == 3
    assert answers[-1] == 7
    said = errors(answers)
    for i, part in enumerate(
        [
            "the shape is (3,); the model takes (2,)",
            "1000 is not a value of int8",
            "it holds float64; the model takes int8",
            "shape is (); the model takes (2,)",
            "argument 'x': ",
            "is missing the argument 'x'",
            "unexpected keyword argument 'z'; it takes x, y",
            "1e+300 is not a value of float32",
            "pickle",
        ],
        start=1,
    ):
        assert isinstance(answers[i], RemoteError), i
        assert part in said[i]


def test_a_handles_queries_are_padded(worker):
    @serve.accept_batch(arrays={"x": serve.Array(pad="longest", pad_value=9)})
    def longest(x, x_mask, x_lengths):
        assert x_mask.dtype == bool
        assert x_lengths.dtype == np.int64
        return [
            [row.tolist(), mask.tolist(), int(n)] for row, mask, n in zip(x, x_mask, x_lengths, strict=True)
        ]

    @serve.accept_batch(arrays={"x": serve.Array(pad=[2, 4])})
    def buckets(x):
        return x

    server = worker(longest, max_batch_size=8)
    assert server.api({"x": [1]}, {"x": [2, 3]}) == [[[1, 9], [True, False], 1], [[2, 3], [True, True], 2]]
    server = worker(buckets, max_batch_size=8)
    answers = server.api({"x": [1]}, {"x": [1, 2, 3]}, {"x": [1, 2]}, {"x": [1] * 5}, {"x": 1})
    assert [a.tolist() for a in answers[:3]] == [[1, 0], [1, 2, 3, 0], [1, 2]]
    assert "its length is 5; the model takes at most 4" in str(answers[3])
    assert "no length" in str(answers[4])


def test_wrong_counts_of_a_part_of_a_batch_hit_that_part(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return x.repeat(2) if x.dtype == "int64" else x

    answers = worker(model, max_batch_size=8).api({"x": 1}, {"x": 1.5}, {"x": 2})
    assert [a.error["type"] if isinstance(a, RemoteError) else a for a in answers] == [
        "WrongAnswerCount",
        1.5,
        "WrongAnswerCount",
    ]


def test_an_error_of_a_part_of_a_batch_hits_that_part(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        if x.dtype == "int64":
            raise ValueError("no integers")
        return x

    @serve.accept_batch(arrays=True)
    async def later(x):
        return model(x)

    for function in (model, later):
        answers = worker(function, max_batch_size=8).api({"x": 1}, {"x": 1.5}, {"x": 2})
        assert answers[1] == 1.5
        for i in (0, 2):
            assert isinstance(answers[i], RemoteError)
            assert "no integers" in str(answers[i])


def test_an_integer_beyond_int64_leaves_the_others_integers(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return [f"{x.dtype} {n}" for n in x]

    answers = worker(model, max_batch_size=8).api({"x": -1}, {"x": 2**63 + 1}, {"x": 2**53 + 1})
    assert answers == ["int64 -1", f"uint64 {2**63 + 1}", f"int64 {2**53 + 1}"]


def test_a_large_item_of_a_handle_does_not_lengthen_small_ones(worker):
    @serve.accept_batch(arrays={"x": serve.Array("int8", pad="longest")})
    def model(x):
        return [x.shape[1]] * len(x)

    large = 64 << 10
    items = [np.ones(n, np.int8) for n in (1, large, 3, large + 5, 2 * large)]
    answers = worker(model, max_batch_size=8).api(*({"x": item} for item in items))
    assert answers == [3, large + 5, 3, large + 5, 2 * large]


# Shared memory

SIZE = 1 << 20


def test_large_arrays_go_both_ways_through_shared_memory(worker):
    @serve.accept_batch(arrays=True)
    def model(x, y):
        assert np.may_share_memory(x, x.base)
        return {"x": x + 1, "own": np.array([x.flags.owndata, y.flags.owndata]), "y": y[:, ::-1]}

    server = worker(model, max_batch_size=8, shared=16 * SIZE)
    x = np.arange(2 * SIZE // 8).reshape(2, -1)
    y = np.ones((2, 3), "float32")
    for at in (0, 4 * SIZE):
        answers = server.arrays({"x": x, "y": y}, at=at, room=(8 * SIZE, 8 * SIZE))
        assert server.answered_in_memory
        assert (answers["x"] == x + 1).all()
        assert not answers["own"].any()
    assert (server.kept, server.freed) == ([], [])


def test_an_answer_without_room_takes_the_socket(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return x

    server = worker(model, max_batch_size=8, shared=16 * SIZE)
    x = np.arange(SIZE).reshape(2, -1)
    for room in ((0, 0), (8 * SIZE, SIZE)):
        assert (server.arrays({"x": x}, at=0, room=room) == x).all()
        assert not server.answered_in_memory
    assert (server.arrays({"x": x[:, :9]}, room=(8 * SIZE, SIZE)) == x[:, :9]).all()
    assert not server.answered_in_memory
    assert (server.kept, server.freed) == ([], [])


def test_a_model_that_keeps_an_array_keeps_its_region(worker):
    class Model:
        kept: Any = None

        @serve.accept_batch(arrays=True)
        def __call__(self, x):
            kind = int(x[0, 0])
            if kind < 6:
                self.kept = [x, x[1:], x.T, memoryview(x), x.view("f8")[:1], [{"deep": x[::2]}]][kind]
            return [0] * len(x)

        @serve.accept_batch(arrays=True)
        def forget(self, x):
            self.kept = None
            return x[:, :1]

    server = worker(Model, max_batch_size=8, shared=16 * SIZE)
    x = np.zeros((2, SIZE // 16), "int64")
    for kind in range(6):
        x[:] = kind
        kept = server.send_arrays({"x": x}, at=0)
        server.receive(kept)
        assert server.kept == [kept]
        assert server.freed == []
        server.arrays({"x": x}, method="forget", at=SIZE)
        assert server.kept == [kept]
        assert server.freed == [kept]
        server.kept, server.freed = [], []
    x[:] = 6
    server.arrays({"x": x}, at=0)
    assert server.kept == []


def test_an_error_that_holds_an_array_frees_it_in_the_end(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        if x[0, 0]:
            raise ValueError(x)
        return x[:, :1]

    server = worker(model, max_batch_size=8, shared=16 * SIZE)
    x = np.ones((2, SIZE // 16), "int64")
    with pytest.raises(RemoteError):
        server.arrays({"x": x}, at=0)
    server.arrays({"x": x * 0}, at=SIZE)
    assert server.kept == server.freed


def test_pickles_and_requests_in_shared_memory_are_copies(worker):
    class Model:
        kept: Any = None

        @serve.accept_batch
        def __call__(self, requests, *, x=None):
            was = self.kept
            self.kept = (requests[0], x)
            if was is None:
                return [0]
            return [bytes(was[0].data)] if serve.context.web else [was[1][0].copy()]

    server = worker(Model, max_batch_size=8, shared=16 * SIZE)
    for origin, (head, payload) in ((1, (b"POST /\nid\n", b"a" * SIZE)), (1, (b"POST /\nid\n", b"b" * SIZE))):
        server.next_id += 1
        frame = bytes([4, origin, 0, 0, 0]) + (1).to_bytes(4, "little") + server.next_id.to_bytes(8, "little")
        frame += len(head).to_bytes(4, "little") + len(payload).to_bytes(4, "little") + head + payload
        answers = server.receive(server.share(frame, at=0, room=(8 * SIZE, 2 * SIZE)))
    assert answers == [b"a" * SIZE]
    assert server.answered_in_memory
    assert server.kept == []


def test_a_shared_batch_that_was_taken_back_is_not_looked_at(worker):
    @serve.accept_batch(arrays=True)
    def model(x):
        return x

    server = worker(model, max_batch_size=8, shared=16 * SIZE)
    frame = server.arrays_frame({"x": np.zeros((1, SIZE))})
    server.share(b"\xff" * len(frame), at=0, flags=1)
    assert server.arrays({"x": np.array([7])}) == [7]


@pytest.mark.parametrize("change", ["short", "long", "layout", "dtype", "count", "beyond"])
def test_frames_that_do_not_fit_together_end_the_worker(worker, change):
    @serve.accept_batch(arrays=True)
    def model(x):
        return x

    server = worker(model, max_batch_size=8, shared=SIZE)
    frame = bytearray(server.arrays_frame({"x": np.arange(4)}))
    if change == "short":
        del frame[-1]
    elif change == "long":
        frame += b"x"
    elif change == "layout":
        frame[17:21] = (1 << 30).to_bytes(4, "little")
    elif change == "dtype":
        frame = bytearray(bytes(frame).replace(b"<i8", b"<q9"))
    elif change == "count":
        frame = bytearray(bytes(frame).replace(b"[4]", b"[9]"))
    if change == "beyond":
        server.share(bytes(frame), at=0)
        server.receive()
        server.sock.sendall(
            (42).to_bytes(4, "little") + bytes([9]) + bytes(9) + SIZE.to_bytes(8, "little") * 2 + bytes(16)
        )
    else:
        server.sock.sendall(len(frame).to_bytes(4, "little") + frame)
    assert server.reader.read() is None
    assert "ProtocolError" in server.process.communicate(timeout=20)[1]

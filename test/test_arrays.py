"""Models that take arrays, asked over HTTP as their users ask them."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from harness import ask, deploy, problem

import shoal
from shoal import serve

NPY = "application/x-npy"
DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]

Array: TypeAlias = npt.NDArray[Any]


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def echo(client: serve.Client) -> serve.Client:
    """A server whose /same answers with its input, and whose /described tells what it was."""

    @serve.accept_batch(arrays=True)
    def same(x: Array) -> Array:
        return x

    @serve.accept_batch(arrays=True)
    def described(x: Array) -> list[str]:
        return [f"{x.dtype} {list(row.shape)}" for row in x]

    deploy(client, "same", same)
    deploy(client, "described", described)
    return client


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 1, 4)])
def test_npy_goes_through_unchanged(echo: serve.Client, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    response = ask(echo, "/same", "POST", data=npy(array), headers={"Content-Type": NPY, "Accept": NPY})
    assert response.headers["Content-Type"] == NPY
    back = np.load(io.BytesIO(response.content))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert (back == array).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_base64_and_json_answers_agree_with_numpy(echo: serve.Client, dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    b64 = {"b64": base64.b64encode(array.tobytes()).decode(), "dtype": dtype, "shape": [2, 3]}
    assert ask(echo, "/same", "POST", json={"x": b64}).json() == array.tolist()


def test_what_json_means(echo: serve.Client) -> None:
    for text, want in {
        "41": "int64 []",
        "[1, 2]": "int64 [2]",
        "[1, 2.0]": "float64 [2]",
        "[[true], [false]]": "bool [2, 1]",
        '{"x": 1e3}': "float64 []",
    }.items():
        assert ask(echo, "/described", "POST", data=text).text == want
    assert ask(echo, "/described?x=41").text == "int64 []"
    assert ask(echo, "/described?x=%5B1,2.5%5D").text == "float64 [2]"


def test_floats_come_back_as_they_were_sent(echo: serve.Client) -> None:
    draw = random.Random(1)
    for _ in range(20):
        numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300) for _ in range(50)]
        response = ask(echo, "/same", "POST", json={"x": numbers})
        assert json.loads(response.text, parse_int=float) == numbers  # 1e20 is written as an integer


def test_float32_is_what_numpy_makes_of_it(client: serve.Client) -> None:
    @serve.accept_batch
    def bits(x: npt.NDArray[np.float32]) -> Array:
        return x.view(np.uint32)

    deploy(client, "bits", bits)
    draw = random.Random(2)
    numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-30, 30) for _ in range(500)]
    numbers += [16777217.0, 1e-45, 3.4e38, -0.0]
    want = np.array(numbers, np.float32).view(np.uint32).tolist()
    assert ask(client, "/bits", "POST", json=numbers).json() == want


def test_bad_queries_hurt_themselves_alone(client: serve.Client, pool: ThreadPoolExecutor) -> None:
    @serve.accept_batch(arrays={"number": "int8", "scale": "float32"})
    def scaled(number: Array, scale: Array) -> Array:
        return number * scale

    deploy(client, "scaled", scaled, max_batch_size=64)
    bad = {
        '{"numbr": 1, "scale": 1}': 'did you mean "number"?',
        '{"number": [1, [2]], "scale": 1}': 'input "number"[1] (byte 15)',
        '{"number": [1, 128], "scale": 1}': "128 is beyond the range of int8",
        '{"number": 1}': 'input "scale": it is missing',
        '{"number": 1, "number": 1, "scale": 1}': "twice",
        '{"number": "1", "scale": 1}': "a string where a number should be",
        '{"number": [], "scale": 1}': "an empty list",
        "1": "gives one input",
    }

    def one(i: int) -> None:
        if i % 3:
            response = ask(client, "/scaled", "POST", data=f'{{"number": {i % 100}, "scale": 0.5}}')
            assert response.json() == i % 100 / 2
            return
        text, why = list(bad.items())[i // 3 % len(bad)]
        assert why in problem(ask(client, "/scaled", "POST", data=text), 400, "InvalidArgument")["detail"]

    list(pool.map(one, range(150)))


def test_a_query_is_the_same_in_any_company(client: serve.Client, pool: ThreadPoolExecutor) -> None:
    @serve.accept_batch(arrays=True)
    def plus(x: Array, y: Any = None) -> Array:
        return x + (np.ones((), x.dtype) if y is None else y.reshape(y.shape + (1,) * (x.ndim - y.ndim)))

    deploy(client, "plus", plus, max_batch_size=32)
    queries: list[Callable[[int], tuple[dict[str, Any], Any]]] = [
        lambda i: ({"x": i}, i + 1),
        lambda i: ({"x": i + 0.5}, i + 1.5),
        lambda i: ({"x": [i, 2]}, [i + 1, 3]),
        lambda i: ({"x": [i, 2], "y": 10}, [i + 10, 12]),
        lambda i: ({"x": [[i], [0]]}, [[i + 1], [1]]),
        lambda i: ({"x": i + 2**60}, i + 2**60 + 1),  # which a float64 could not hold
    ]

    def one(i: int) -> None:
        body, want = queries[i % len(queries)](i)
        assert ask(client, "/plus", "POST", json=body).json() == want

    list(pool.map(one, range(300)))


def test_padded_queries_share_batches_and_do_not_change(
    client: serve.Client, pool: ThreadPoolExecutor
) -> None:
    @serve.accept_batch
    def total(
        x: Annotated[Array, serve.Array("float64", pad="longest", pad_value=1e9)],
        x_mask: Array,
        x_lengths: Array,
    ) -> dict[str, Array]:
        return {"sum": np.where(x_mask, x, 0).sum(axis=1), "length": x_lengths}

    deploy(client, "total", total, max_batch_size=32)

    def one(n: int) -> None:
        response = ask(client, "/total", "POST", json=[0.5] * n)
        assert response.json() == {"sum": n / 2, "length": n}

    list(pool.map(one, [1 + i % 17 for i in range(200)]))


def test_an_answer_that_is_not_a_number_is_an_error_for_json_alone(client: serve.Client) -> None:
    @serve.accept_batch(arrays={"x": "float64"})
    def root(x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)

    deploy(client, "root", root)
    assert ask(client, "/root?x=4").json() == 2
    assert "NaN" in problem(ask(client, "/root?x=-4"), 500, "Internal")["detail"]
    response = ask(client, "/root?x=-4", headers={"Accept": NPY})
    assert np.isnan(np.load(io.BytesIO(response.content)))


def test_padding_that_cannot_be_is_told_at_once(client: serve.Client) -> None:
    @serve.accept_batch(arrays={"x": serve.Array("uint8", pad="longest", pad_value=256)})
    def model(x: Array) -> Array:
        return x

    with pytest.raises(shoal.LoadFailed, match="256 is not a value of dtype uint8"):
        client.create_backend("model", model)


def test_padding_may_be_nan(client: serve.Client) -> None:
    @serve.accept_batch(arrays={"x": serve.Array("float32", pad=[4], pad_value=float("nan"))})
    def model(x: Array) -> Array:
        return np.isnan(x)

    deploy(client, "model", model)
    assert ask(client, "/model", "POST", data="[1, 2]").json() == [False, False, True, True]

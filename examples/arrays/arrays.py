"""Models that get a whole batch as arrays.

shoal serve arrays.py      then: curl -d '{"x": [1, 2.5]}' 127.0.0.1:8000/plus
                                 curl -d '{"tokens": [3, 1, 4, 1, 5]}' 127.0.0.1:8000/mean
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt

from shoal import serve


@serve.accept_batch(arrays=True)
def plus(x, y=None):
    """Add one, or y, to numbers or arrays of any shape."""
    return x + (1 if y is None else y)


@serve.accept_batch
def mean(
    tokens: Annotated[npt.NDArray[np.float32], serve.Array("float32", shape=(None,), pad="longest")],
    tokens_mask: npt.NDArray[np.bool_],
    tokens_lengths: npt.NDArray[np.int64],
):
    """Average sequences of different lengths, which share a batch: the mask tells what is padding."""
    return {"mean": (tokens * tokens_mask).sum(axis=1) / tokens_lengths, "of": tokens_lengths}

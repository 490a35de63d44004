"""A classifier of handwritten digits, trained on the real ones that come with scikit-learn.

shoal serve digits.py:Digits     then POST the pixels, 64 numbers from 0 to 16, as a JSON list to /Digits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal import serve


class Data(NamedTuple):
    """All digits, and which of them a model is trained on."""

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


def load_data() -> Data:
    """The 1,797 digits; a quarter is held out, the same one every time."""
    images, labels = load_digits(return_X_y=True)
    train, held_out = train_test_split(
        np.arange(len(images)), test_size=0.25, random_state=0, stratify=labels
    )
    return Data(images, labels, train, held_out)


class Digits:
    """A small neural network. Each replica trains its own, which takes a second or two."""

    def __init__(self) -> None:
        data = load_data()
        self.model = make_pipeline(StandardScaler(), MLPClassifier((128,), random_state=0))
        self.model.fit(data.images[data.train], data.labels[data.train])

    @serve.accept_batch
    def __call__(self, requests: Sequence[Any], *, image: Sequence[Any] | None = None) -> list[int]:
        """The digits in a batch of images: one matrix product a layer for all of them."""
        if serve.context.web:
            image = [request.json for request in requests]
        digits: list[int] = self.model.predict(np.asarray(image, dtype=np.float64)).tolist()
        return digits

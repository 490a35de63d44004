"""MLServer: one custom runtime that batches. Its settings come from the environment (see harness/peers.py)."""

from __future__ import annotations

import os

import models
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Model(MLModel):  # type: ignore[misc]
    """Serves the model that $SHOAL_BENCH_MODEL names, in the Open Inference Protocol."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = models.load(os.environ["SHOAL_BENCH_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute one batch: MLServer has joined the queries' tensors along their first axis."""
        rows, *shape = payload.inputs[0].shape
        data = list(payload.inputs[0].data)
        if shape:
            width = shape[0]
            data = [data[start : start + width] for start in range(0, rows * width, width)]
        answers = self.model(data)
        output = ResponseOutput(name="y", shape=[rows], datatype="INT64", data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])

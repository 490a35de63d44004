"""Trains the network of examples/digits, and writes it with its queries and answers: `digits_model.py FOLDER`.

Every server then reads the same trained model. The answers are what it says to each digit alone.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "digits"))
from digits import Digits, load_data


def main(folder: Path) -> None:
    """Train, ask, write."""
    model = Digits().model
    images = load_data().images
    answers = [int(model.predict(image[None])[0]) for image in images]
    cases = [(image.astype(int).tolist(), answer) for image, answer in zip(images, answers, strict=True)]
    (folder / "digits.json").write_text(json.dumps(cases))
    (folder / "digits.pickle").write_bytes(pickle.dumps(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

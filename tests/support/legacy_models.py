"""Small models of the older engine, their files, and the bounds for reading them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ensemble.legacy.decode import Terms
from ensemble.legacy.sandbox import Limits
from ensemble.store.bundles.manifest import installed_libraries

__all__ = [
    "AGREE",
    "LAUNCHES",
    "LIMITS",
    "TERMS",
    "logits",
    "older_network",
    "pickled",
    "saved",
]

TERMS = Terms(64 << 20, installed_libraries()["scikit-learn"])
LIMITS = Limits(file_bytes=64 << 20, memory_bytes=256 << 20, cpu_s=20, wall_s=60.0)
LAUNCHES = {
    "svchost.exe": 900,
    "chrome.exe": 400,
    "cmd.exe": 40,
    "winword.exe": 160,
    "psexec.exe": 1,
    "python": 12,
    "rare.exe": 1,
}
AGREE = 1e-6


def pickled(model: object, compress: object = 0) -> bytes:
    """Write a model as a joblib file."""
    saved = io.BytesIO()
    joblib.dump(model, saved, compress=compress)
    return saved.getvalue()


def saved(state: object) -> bytes:
    """Write a state as a torch file."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def older_network(*widths: int) -> nn.Sequential:
    """Make the older engine's network before its sigmoid, 78-256-128-64-1 by default."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        own = widths or (78, 256, 128, 64, 1)
        levels: list[nn.Module] = []
        for fan_in, fan_out in pairwise(own):
            levels += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*levels[:-1])


def logits(state: Mapping[str, torch.Tensor], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the forward pass of the older engine step by step: the expected values."""
    hidden = torch.from_numpy(rows.astype(np.float32))
    keys = list(state)
    for weight, bias in zip(keys[::2], keys[1::2], strict=True):
        hidden = torch.nn.functional.linear(hidden, state[weight], state[bias])
        hidden = hidden if weight == keys[-2] else hidden.relu()
    return hidden[:, 0].numpy().astype(np.float64)

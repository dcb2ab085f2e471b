"""A small model of the traffic, trained in a second or two, for tests of the chain and of the store."""

from functools import cache
from pathlib import Path

from klais.models.card import Card, write_model
from klais.traffic.backends import onnx_bytes
from klais.traffic.bases import shipped
from klais.traffic.features import NAMES
from klais.traffic.predictor import KIND
from klais.traffic.training import Samples, fit, samples
from klais.traffic.trees import Trees


@cache
def some_samples(seed: int = 1) -> Samples:
    return samples([base.part("train") for base in shipped()], 40, seed)


@cache
def some_trees(seed: int = 1) -> Trees:
    return fit(some_samples(seed), seed, iterations=4)


def write_some(root: Path, version: str, seed: int = 1, **about: object) -> Card:
    """A model below ``root``, in the folder of its kind."""
    trees = some_trees(seed)
    files = {"trees.npz": trees.dump(), "model.onnx": onnx_bytes(trees)}
    card = {"kind": KIND, "version": version, "features": list(NAMES), **about}
    return write_model(root / KIND / version, files, card)

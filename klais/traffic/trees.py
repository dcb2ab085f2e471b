"""Boosted trees as plain arrays: converted from scikit-learn, evaluated by scikit-learn's own code or ONNX.

The file holds only numbers, so that reading it cannot execute code. Thresholds are rounded down to float32 and features
are float32, so that every evaluation takes the same branch at every node.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.errors import ModelRefused
from klais.models.arrays import read_arrays

Array = npt.NDArray[Any]
MAX_NODES = 5_000_000
SHAPES = {
    "starts": np.int64,
    "targets": np.int16,
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "leaf": np.bool_,
    "value": np.float64,
    "base": np.float64,
    "probe": np.float32,
    "answers": np.float64,
}


@dataclass(frozen=True, slots=True)
class Trees:
    """k trees over n nodes, each of which adds to one of t outputs.

    Attributes
    ----------
    starts : int64 [k + 1]
        First node of each tree.
    targets : int16 [k]
        The output to which each adds.
    feature, threshold, left, right : [n]
        Of an inner node: ``x[feature] <= threshold`` goes left; children are counted from the tree's first node.
    leaf, value : [n]
        Whether a node is a leaf, and the value that it adds.
    base : float64 [t]
        Outputs without trees.
    probe, answers : float32 [p, f], float64 [p, t]
        Some inputs and their correct outputs, with which a backend is checked.
    """

    starts: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int16]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    leaf: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    probe: npt.NDArray[np.float32]
    answers: npt.NDArray[np.float64]

    def dump(self) -> bytes:
        """As the bytes of a compressed npz file; equal trees give equal bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in SHAPES:
                part = io.BytesIO()
                np.save(part, getattr(self, name), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue(), 8)
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes, columns: int, outputs: int) -> "Trees":
        """Read and check such a file: with any contents, an evaluation ends and stays within the arrays.

        Raises
        ------
        ModelRefused
            If it is not such a file, or its numbers are inconsistent.
        """
        kinds = {name: (np.dtype(kind).str, 2 if name in ("probe", "answers") else 1) for name, kind in SHAPES.items()}
        try:
            trees = cls(**read_arrays(data, kinds))
        except ModelRefused as error:
            raise ModelRefused(f"the trees: {error}. Train the model again") from error
        if problem := trees.problem(columns, outputs):
            raise ModelRefused(f"the trees are damaged ({problem}). Train the model again")
        return trees

    def problem(self, columns: int, outputs: int) -> str:
        """Description of an inconsistency; empty if there is none."""
        n, k = len(self.feature), len(self.targets)
        if not 0 < n <= MAX_NODES or self.base.shape != (outputs,) or self.probe.shape[1:] != (columns,):
            return f"{n} nodes, {self.base.shape} outputs, {self.probe.shape} probes"
        if any(getattr(self, name).shape != (n,) for name in ("threshold", "left", "right", "leaf", "value")):
            return "columns of different lengths"
        ordered = (self.starts[1:] > self.starts[:-1]).all()  # a difference may not fit into 64 bits
        if self.starts.shape != (k + 1,) or self.starts[0] != 0 or self.starts[-1] != n or not ordered:
            return "trees that are not consecutive"
        sizes = np.diff(self.starts)
        if self.targets.min(initial=0) < 0 or self.targets.max(initial=0) >= outputs:
            return "an output that does not exist"
        size, at = np.repeat(sizes, sizes), np.arange(n) - np.repeat(self.starts[:-1], sizes)
        inner = ~self.leaf
        for child in (self.left[inner], self.right[inner]):
            if (child <= at[inner]).any() or (child >= size[inner]).any():
                return "a child before its parent"
        if (self.feature[inner] < 0).any() or (self.feature[inner] >= columns).any():
            return "a feature that does not exist"
        floats = (self.threshold, self.value, self.base, self.probe, self.answers)
        return "" if all(np.isfinite(values).all() for values in floats) else "numbers that are not finite"


def from_sklearn(heads: Sequence[tuple[Any, Sequence[int]]], probe: npt.NDArray[np.float32]) -> Trees:
    """Trees of fitted ``HistGradientBoosting`` estimators, one after the other.

    Parameters
    ----------
    heads : sequence of (estimator, outputs)
        Each with the outputs of its raw predictions.
    probe : float32 [p, f]
        Inputs for the self-check; the answers are computed from the arrays.
    """
    parts: dict[str, list[Array]] = {name: [] for name in ("feature", "threshold", "left", "right", "leaf", "value")}
    starts, targets, base = [0], [], np.zeros(sum(len(outputs) for _, outputs in heads))
    for model, outputs in heads:
        base[list(outputs)] = np.asarray(model._baseline_prediction).ravel()
        for iteration in model._predictors:
            for output, predictor in zip(outputs, iteration, strict=True):
                nodes = predictor.nodes
                targets.append(output)
                starts.append(starts[-1] + len(nodes))
                leaf = nodes["is_leaf"].astype(bool)
                parts["leaf"].append(leaf)
                parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]))
                parts["threshold"].append(_round_down(np.where(leaf, 0.0, nodes["num_threshold"])))
                parts["left"].append(np.where(leaf, 0, nodes["left"]))
                parts["right"].append(np.where(leaf, 0, nodes["right"]))
                parts["value"].append(np.where(leaf, nodes["value"], 0.0))
    joined: dict[str, Any] = {name: np.concatenate(values).astype(SHAPES[name]) for name, values in parts.items()}
    empty = np.zeros((0, len(base)))
    trees = Trees(
        starts=np.array(starts, np.int64), targets=np.array(targets, np.int16), base=base, probe=probe, answers=empty,
        **joined,
    )  # fmt: skip
    known = {field.name: getattr(trees, field.name) for field in fields(Trees)}
    return Trees(**known | {"answers": evaluate(trees, probe)})


def evaluate(trees: Trees, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Outputs of rows of features, by the definition; float64 [rows, t]. For training and tests: rows are the unit."""
    out = np.tile(trees.base, (len(x), 1))
    rows = np.arange(len(x))
    for start, target in zip(trees.starts[:-1], trees.targets, strict=True):
        node = np.full(len(x), start)
        while not trees.leaf[node].all():
            left = x[rows, trees.feature[node]] <= trees.threshold[node]
            child = start + np.where(left, trees.left[node], trees.right[node])
            node = np.where(trees.leaf[node], node, child)
        out[:, target] += trees.value[node]
    return out


def _round_down(values: Array) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above each value."""
    rounded = np.clip(values, -3e38, 3e38).astype(np.float32)
    lower: npt.NDArray[np.float32] = np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return lower

"""Backends that evaluate a model's trees: ONNX Runtime (extra ``ml``), or scikit-learn. Both are checked at load."""

import warnings
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klais.errors import ModelRefused
from klais.traffic.trees import Trees

Input = npt.NDArray[np.float32]
Output = npt.NDArray[np.float64]
INPUT, OUTPUT = "features", "outputs"
TOLERANCE = 1e-3  # of the log-odds: ONNX adds in float32


class Backend(Protocol):
    """Evaluates trees."""

    name: str

    def run(self, x: Input) -> Output:
        """Outputs of rows of features, float64 [rows, outputs]."""
        ...


class OnnxBackend:
    """ONNX Runtime on one thread: one node holds all trees.

    A single row, the one of a forecast, goes through buffers that are bound once: this spares a fifth of its time.
    :meth:`run` belongs to one thread.

    Raises
    ------
    ImportError
        If ``onnxruntime`` is not installed.
    ModelRefused
        If the file is not such a model, or its outputs differ from the trees.
    """

    name = "onnx"

    def __init__(self, data: bytes, trees: Trees) -> None:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            self._row = np.zeros((1, trees.probe.shape[1]), np.float32)
            self._outputs = np.zeros((1, len(trees.base)), np.float32)
            self._bound = self._session.io_binding()
            row, out = self._row, self._outputs
            self._bound.bind_input(INPUT, "cpu", 0, np.float32, row.shape, row.ctypes.data)
            self._bound.bind_output(OUTPUT, "cpu", 0, np.float32, out.shape, out.ctypes.data)
            check(self, trees)
        except ModelRefused:
            raise
        except Exception as error:  # exceptions of onnxruntime share no public base class
            raise ModelRefused(f"ONNX Runtime does not load the model: {error}") from error

    def run(self, x: Input) -> Output:
        """See :class:`Backend`."""
        if len(x) != 1:
            out: Output = np.asarray(self._session.run([OUTPUT], {INPUT: x})[0], np.float64)
            return out
        self._row[:] = x
        self._session.run_with_iobinding(self._bound)
        return self._outputs.astype(np.float64)


class SklearnBackend:
    """scikit-learn's own tree code, rebuilt from the arrays (without pickle; it uses private parts, so it is checked).

    Raises
    ------
    ModelRefused
        If this version of scikit-learn stores trees differently.
    """

    name = "scikit-learn"

    def __init__(self, trees: Trees) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._predictors = _predictors(trees)
                self._base, self._targets = trees.base, trees.targets.tolist()
                self._bitsets, self._map = np.zeros((0, 8), np.uint32), np.zeros(trees.probe.shape[1], np.uint32)
                check(self, trees)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ModelRefused(
                f"this version of scikit-learn does not load the trees: {error!r}. Install the extra ml"
            ) from error

    def run(self, x: Input) -> Output:
        """See :class:`Backend`."""
        rows = x.astype(np.float64)
        out = np.tile(self._base, (len(x), 1))
        for target, predictor in zip(self._targets, self._predictors, strict=True):
            out[:, target] += predictor.predict(rows, self._bitsets, self._map, 1)
        return out


def check(backend: Backend, trees: Trees) -> None:
    """Compare the outputs for the model's probes.

    Raises
    ------
    ModelRefused
        If they differ.
    """
    found = np.concatenate((backend.run(trees.probe[:1]), backend.run(trees.probe[1:])))  # one row, and many
    if found.shape != trees.answers.shape or not np.allclose(found, trees.answers, rtol=0, atol=TOLERANCE):
        raise ModelRefused(
            f"{backend.name} gives other outputs than the model's card: mixed files of two models, or damaged files"
        )


def _predictors(trees: Trees) -> list[Any]:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    nodes = np.zeros(len(trees.feature), PREDICTOR_RECORD_DTYPE)
    for theirs, ours in (
        ("value", trees.value),
        ("feature_idx", trees.feature),
        ("num_threshold", trees.threshold),
        ("left", trees.left),
        ("right", trees.right),
        ("is_leaf", trees.leaf),
    ):
        nodes[theirs] = ours
    none = np.zeros((0, 8), np.uint32)
    bounds = zip(trees.starts[:-1], trees.starts[1:], strict=True)
    return [TreePredictor(nodes[start:end].copy(), none, none) for start, end in bounds]


def onnx_bytes(trees: Trees) -> bytes:
    """The trees as an ONNX model with one ``TreeEnsembleRegressor``.

    skl2onnx 1.20 cannot convert these trees with the present numpy and onnx (it passes booleans to integer attributes),
    and would need a node for each estimator.

    Raises
    ------
    ImportError
        If ``onnx`` is not installed.
    """
    from onnx import TensorProto, helper

    sizes = np.diff(trees.starts)
    at = np.arange(len(trees.feature)) - np.repeat(trees.starts[:-1], sizes)
    tree = np.repeat(np.arange(len(sizes)), sizes)
    leaves = np.flatnonzero(trees.leaf)
    outputs = len(trees.base)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [OUTPUT],
        domain="ai.onnx.ml",
        n_targets=outputs,
        aggregate_function="SUM",
        base_values=trees.base.astype(np.float32).tolist(),
        nodes_treeids=tree.tolist(),
        nodes_nodeids=at.tolist(),
        nodes_featureids=trees.feature.tolist(),
        nodes_values=trees.threshold.tolist(),
        nodes_modes=np.where(trees.leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=trees.left.tolist(),
        nodes_falsenodeids=trees.right.tolist(),
        nodes_missing_value_tracks_true=[0] * len(at),
        nodes_hitrates=[1.0] * len(at),
        target_treeids=tree[leaves].tolist(),
        target_nodeids=at[leaves].tolist(),
        target_ids=trees.targets[tree[leaves]].tolist(),
        target_weights=trees.value[leaves].astype(np.float32).tolist(),
    )
    columns = trees.probe.shape[1]
    graph = helper.make_graph(
        [node],
        "traffic",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, outputs])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="klais")
    data: bytes = model.SerializeToString(deterministic=True)
    return data

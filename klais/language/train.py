"""Trains the small language model and writes it as GGUF. A script for developers: it needs jax and gguf (extra train).

    python -m klais.language.train DIR [--seed 1] [--steps 700] [--out klais/models/data/language]

A Llama of 1.2 million parameters (5 layers, width 128, 4 heads) learns two tasks: the class of a window rendered as
words, and sentences with slots from the names of an incident's facts.
"""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.control.forecast import CLASSES
from klais.language import phrases, text
from klais.language.vocabulary import BYTES, ids, tokens
from klais.models.card import write_model
from klais.traffic.bases import load_folder
from klais.traffic.training import Samples, samples

KIND = "language"
LAYERS, WIDTH, HEADS, HIDDEN, CONTEXT = 5, 128, 4, 384, 256
EPS, ROPE_BASE = 1e-5, 10_000.0
BATCH, PHRASE_BATCH, PHRASE_LENGTH = 64, 16, 96
PHRASE_EVERY = 3  # steps
RATE = 2.5e-3
SCRIPT = "klais/language/train.py"

Weights = dict[str, Any]
Tokens = npt.NDArray[np.int32]


def window_tokens(bins: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Tokens:
    """Sequences of 29 tokens: begin, 24 words of the window, ``?``, and the answer up to its end."""
    at = ids()
    first = at[text.window_words()[0]]
    out = np.zeros((len(bins), 29), np.int32)
    out[:, 0] = 1
    out[:, 1:25] = first + np.arange(24) * text.BINS + bins
    out[:, 25], out[:, 26] = at[text.ASK], at[text.ANSWER_BEGINS]
    out[:, 27] = np.array([at[name] for name in CLASSES])[labels]
    out[:, 28] = at[text.ANSWER_ENDS]
    return out


def phrase_tokens(rng: np.random.Generator, rows: int) -> tuple[Tokens, npt.NDArray[np.float32]]:
    """Sequences about facts, padded with the end token, and a mask of the tokens to learn."""
    at, end = ids(), 2
    out, learned = np.full((rows, PHRASE_LENGTH), end, np.int32), np.zeros((rows, PHRASE_LENGTH), np.float32)
    for row in range(rows):
        names, words = phrases.sample(rng)
        head = [1, at[phrases.BEGIN], *(at[phrases.fact_word(name)] for name in names), at[":"]]
        whole = (head + [at[f" {word}"] for word in words] + [end])[:PHRASE_LENGTH]
        out[row, : len(whole)] = whole
        learned[row, len(head) : len(whole)] = 1.0
    return out, learned


def new_weights(seed: int) -> Weights:
    """Random weights by their names in a GGUF file."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Any:
        return (rng.normal(0, scale / np.sqrt(columns), (rows, columns))).astype(np.float32)

    size = len(tokens())
    out: Weights = {
        "token_embd.weight": rng.normal(0, 0.5, (size, WIDTH)).astype(np.float32),
        "output_norm.weight": np.ones(WIDTH, np.float32),
        "output.weight": matrix(size, WIDTH),
    }
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            out[f"{at}{name}.weight"] = np.ones(WIDTH, np.float32)
        for name in ("attn_q", "attn_k", "attn_v"):
            out[f"{at}{name}.weight"] = matrix(WIDTH, WIDTH)
        out[f"{at}attn_output.weight"] = matrix(WIDTH, WIDTH, 0.3)
        out[f"{at}ffn_gate.weight"], out[f"{at}ffn_up.weight"] = matrix(HIDDEN, WIDTH), matrix(HIDDEN, WIDTH)
        out[f"{at}ffn_down.weight"] = matrix(WIDTH, HIDDEN, 0.3)
    return out


def logits(weights: Weights, sequence: Any) -> Any:
    """The model of llama.cpp's architecture ``llama``: its prediction after each token, [rows, length, tokens]."""
    import jax
    import jax.numpy as jnp

    def norm(x: Any, weight: Any) -> Any:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS) * weight

    rows, length = sequence.shape
    size = WIDTH // HEADS
    angle = jnp.arange(length)[:, None] * ROPE_BASE ** (-jnp.arange(0, size, 2) / size)[None]
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]

    def rotate(x: Any) -> Any:  # neighbours form a pair, as in llama.cpp
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.stack((a * cos - b * sin, a * sin + b * cos), -1).reshape(x.shape)

    mask = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e9)
    x = weights["token_embd.weight"][sequence]
    for layer in range(LAYERS):
        w = {name: weights[f"blk.{layer}.{name}.weight"] for name in _LAYER}
        y = norm(x, w["attn_norm"])
        q, k, v = ((y @ w[name].T).reshape(rows, length, HEADS, size) for name in ("attn_q", "attn_k", "attn_v"))
        scores = jnp.einsum("rihd,rjhd->rhij", rotate(q), rotate(k)) / jnp.sqrt(size) + mask
        mixed = jnp.einsum("rhij,rjhd->rihd", jax.nn.softmax(scores), v).reshape(rows, length, WIDTH)
        x = x + mixed @ w["attn_output"].T
        y = norm(x, w["ffn_norm"])
        x = x + (jax.nn.silu(y @ w["ffn_gate"].T) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x, weights["output_norm.weight"]) @ weights["output.weight"].T


_LAYER = ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def batches(data: Tokens, labels: npt.NDArray[np.int64], seed: int) -> Iterator[tuple[Tokens, Any]]:
    """Endless batches: windows (all classes equally often), and in every third step sentences."""
    rng = np.random.default_rng([seed, 7])
    weight = 1.0 / np.sqrt(np.bincount(labels, minlength=len(CLASSES)))[labels]
    chance = np.cumsum(weight / weight.sum())
    learned = np.zeros((BATCH, data.shape[1]), np.float32)
    learned[:, 26:] = (0.1, 1.0, 0.1)
    step = 0
    while True:
        step += 1
        if step % PHRASE_EVERY == 0:
            yield phrase_tokens(rng, PHRASE_BATCH)
        else:
            yield data[np.searchsorted(chance, rng.random(BATCH)).clip(0, len(data) - 1)], learned


def fit(data: Tokens, labels: npt.NDArray[np.int64], seed: int, steps: int) -> Weights:
    """Adam with a learning rate that rises for 40 steps and falls to 0 along a cosine."""
    import jax
    import jax.numpy as jnp

    def loss(weights: Weights, sequence: Any, learned: Any) -> Any:
        said = jax.nn.log_softmax(logits(weights, sequence[:, :-1]))
        of_next = jnp.take_along_axis(said, sequence[:, 1:, None], -1)[..., 0]
        return -(of_next * learned[:, 1:]).sum() / learned[:, 1:].sum()

    @jax.jit
    def update(weights: Weights, first: Any, second: Any, at: Any, rate: Any, sequence: Any, learned: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(weights, sequence, learned)
        size = jnp.sqrt(sum((g * g).sum() for g in slope.values()))
        slope = {name: g * jnp.minimum(1.0, 1.0 / (size + 1e-9)) for name, g in slope.items()}
        first = {name: 0.9 * first[name] + 0.1 * g for name, g in slope.items()}
        second = {name: 0.98 * second[name] + 0.02 * g * g for name, g in slope.items()}
        m, v = 1 - 0.9**at, 1 - 0.98**at
        new = {name: w - rate * (first[name] / m) / (jnp.sqrt(second[name] / v) + 1e-8) for name, w in weights.items()}
        return new, first, second, value

    weights = {name: jnp.asarray(value) for name, value in new_weights(seed).items()}
    first, second = ({name: jnp.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    began_s, mean = time.monotonic(), dict[str, float]()
    for step, (sequence, learned) in zip(range(1, steps + 1), batches(data, labels, seed), strict=False):
        rate = RATE * min(1.0, step / 40) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        weights, first, second, value = update(weights, first, second, float(step), rate, sequence, learned)
        kind = "sentences" if step % PHRASE_EVERY == 0 else "windows"
        mean[kind] = 0.95 * mean.get(kind, float(value)) + 0.05 * float(value)
        if step % 50 == 0:
            print(f"step {step}: {mean} after {time.monotonic() - began_s:.0f} s", flush=True)
    return {name: np.asarray(w) for name, w in weights.items()}


def accuracy(weights: Weights, data: Tokens, labels: npt.NDArray[np.int64]) -> float:
    """Share of windows whose class is the most likely of the five."""
    import jax

    at = ids()
    columns = np.array([at[name] for name in CLASSES])
    weights = {name: jax.numpy.asarray(w) for name, w in weights.items()}
    run = jax.jit(lambda part: logits(weights, part)[:, 26, columns].argmax(-1))
    whole = len(data) // 256 * 256
    said = np.concatenate([np.asarray(run(data[n : n + 256, :27])) for n in range(0, whole, 256)])
    return float((said == labels[:whole]).mean())


def gguf_bytes(weights: Weights, name: str) -> bytes:
    """The weights (float16) with the vocabulary as a GGUF file."""
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(str(path), "llama")
        writer.add_name(name)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(HIDDEN)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_rope_freq_base(ROPE_BASE)
        writer.add_layer_norm_rms_eps(EPS)
        writer.add_vocab_size(len(tokens()))
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_tokenizer_model("llama")
        kinds = gguf.TokenType
        all_tokens = tokens()
        plain = len(all_tokens) - 3 - BYTES
        writer.add_token_list(all_tokens)
        writer.add_token_scores([0.0] * len(all_tokens))
        writer.add_token_types(
            [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * BYTES, *[kinds.USER_DEFINED] * plain]
        )
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(False)
        for tensor, value in weights.items():
            writer.add_tensor(tensor, value.astype(np.float32 if value.ndim == 1 else np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def main() -> None:
    """The command line of the script."""
    parser = argparse.ArgumentParser(description="Train the small language model.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--episodes", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("klais/models/data") / KIND)
    given = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    bases = load_folder(given.traces)

    def drawn(part: str, episodes: int) -> Samples:
        return samples([base.part(part) for base in bases], episodes, given.seed, test=part == "test")

    early, late = drawn("train", given.episodes), drawn("test", given.episodes // 6)
    print(f"{len(early.x)} windows to learn from, {len(late.x)} to judge by", flush=True)
    early, late = early.with_class(), late.with_class()
    data, test = window_tokens(text.bins_of(early.x), early.labels), window_tokens(text.bins_of(late.x), late.labels)
    weights = fit(data, early.labels, given.seed, given.steps)
    reached = accuracy(weights, test, late.labels)
    size = sum(w.size for w in weights.values())
    version = f"language-{hashlib.sha256(b''.join(w.tobytes() for w in weights.values())).hexdigest()[:10]}"
    about = {
        "kind": KIND, "version": version, "title": "Small language model: class of a window, sentences on incidents",
        "method": f"Llama, {size:,} parameters, float16", "script": SCRIPT, "seed": given.seed, "steps": given.steps,
        "data": [{"name": base.name, "steps": len(base.counts), "step_s": base.step_s} for base in bases],
        "episodes": given.episodes, "classes": list(CLASSES), "words": len(tokens()),
        "data_licence": "NASA HTTP logs of July and August 1995: free to use (Internet Traffic Archive)",
        "split": "by time: the first 60 % of each recording trains; the test also has other sizes of fleets and herds",
        "libraries": {name: metadata.version(name) for name in ("numpy", "jax", "gguf")},
        "test": {"accuracy": round(reached, 4), "windows": len(late.x)}, "licence": "as KLAIS",
        "limits": "knows these words only; it decides nothing: its class is shown beside the forecast's",
    }  # fmt: skip
    write_model(given.out / version, {"model.gguf": gguf_bytes(weights, version)}, about)
    print(f"{version}: accuracy {reached:.4f}, {size:,} parameters")


if __name__ == "__main__":
    main()

"""The process of the language model: a line of JSON in, a line of JSON out, at the lowest priority.

    {"id":1,"task":"class","prompt":"a3b0..."}                  ->  {"id":1,"text":"{\\"class\\":\\"burst\\"}"}
    {"id":2,"task":"explain","names":[..],"facts":{..}}         ->  {"id":2,"text":"..."}

It loads the model given on the command line, checks its hash first if a card has one, and exits at the end of its
input. It starts in a private folder, which its owner removes after the model is loaded.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from klais.language import phrases, text
from klais.system.processes import limit_memory, prefer_for_oom_kill

MAX_TOKENS = 120
CONTEXT = 4096  # maximum context of your own model in tokens: its own limit may be 100,000, which needs gigabytes
SYSTEM = "You explain incidents of an IoT gateway in two plain sentences. Use only the facts given, and their numbers."
SOCKET = "http.sock"
LOG_ERRORS = 1  # llama.cpp writes errors to stderr, and nothing else


class Model:
    """A GGUF model in llama.cpp; one with the small vocabulary of KLAIS has its own way to answer."""

    def __init__(self, path: Path, is_own: bool) -> None:
        from xllamacpp import CommonParams, Server

        given = CommonParams()
        given.model.path, given.offline = str(path), True
        given.n_ctx, given.n_batch, given.n_ubatch = 0 if is_own else CONTEXT, 256, 256
        given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
        given.n_parallel, given.n_gpu_layers, given.sampling.seed = 1, 0, 1
        given.warmup = given.fit_params = False
        given.cache_ram_mib = given.n_ctx_checkpoints = 0
        given.verbosity = LOG_ERRORS
        # llama.cpp always opens an HTTP server. Here it has a socket in the private folder, which is removed as soon as
        # the model is loaded, so that no process can reach it.
        given.hostnames, given.n_threads_http = [SOCKET], 1
        given.ui = given.endpoint_slots = False
        self.is_own, self._server = is_own, Server(given)

    def answer(self, asked: dict[str, Any]) -> str:
        """The text for one task."""
        if asked["task"] == "class":
            return self._complete(str(asked["prompt"]), 8, {"grammar": text.GRAMMAR})
        if self.is_own:
            return self._complete(phrases.prompt_of(asked["names"]), 96, {})
        facts = json.dumps(asked["facts"], ensure_ascii=False)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Facts: {facts}"}]
        question = {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0.0}
        return str(_choice(self._server.handle_chat_completions(question))["message"]["content"])

    def _complete(self, prompt: str, max_tokens: int, more: dict[str, Any]) -> str:
        question = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, **more}
        return str(_choice(self._server.handle_completions(question))["text"])


def _choice(said: dict[str, Any]) -> Any:
    if "choices" not in said:
        raise RuntimeError(str(said.get("error", said).get("message", said)))
    return said["choices"][0]


def main(path: Path, digest: str, is_own: bool, max_bytes: int) -> None:
    """Serve until the end of the input."""
    os.nice(19)
    prefer_for_oom_kill(os.getpid())
    limit_memory(max_bytes)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of the library must not look like an answer
    if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        print(json.dumps({"error": f"{path} is damaged: its hash is not the card's"}), file=out)
        return
    try:
        model = Model(path, is_own)
    except ModuleNotFoundError as error:
        print(json.dumps({"error": f"{error}: pip install 'klais[llm]'"}), file=out)
        return
    except Exception as error:
        print(json.dumps({"error": f"the model cannot be loaded: {error}"}), file=out)
        return
    print(json.dumps({"ready": True}), file=out)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # the owner no longer reads it, and the file would grow
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            print(json.dumps({"id": asked["id"], "text": model.answer(asked)}), file=out)
        except Exception as error:
            print(json.dumps({"id": asked["id"], "error": str(error)}), file=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "own", int(sys.argv[4]))

"""The process of the language model: a line of JSON in, a line of JSON out, at the lowest priority.

    {"id":1,"task":"class","prompt":"a3b0..."}                  ->  {"id":1,"text":"{\\"class\\":\\"burst\\"}"}
    {"id":2,"task":"explain","names":[..],"facts":{..}}         ->  {"id":2,"text":"..."}

It reads the model that the command line names, checks its hash first where a card gives one, and ends with its input.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from klais.language import phrases, text
from klais.language.vocabulary import tokens

MOST_TOKENS = 120
SYSTEM = "You explain incidents of an IoT gateway in two plain sentences. Use only the facts given, and their numbers."


class Model:
    """A GGUF model in llama.cpp; one with the small vocabulary of KLAIS answers its own way."""

    def __init__(self, path: Path) -> None:
        from llama_cpp import Llama, LlamaGrammar

        self._model = Llama(str(path), n_ctx=0, n_threads=1, n_threads_batch=1, n_batch=256, verbose=False, seed=1)
        self._grammar = LlamaGrammar.from_string(text.GRAMMAR, verbose=False)
        name = str(self._model.metadata.get("general.name", ""))
        self.is_own = name.startswith("language-") and self._model.n_vocab() == len(tokens())

    def answer(self, asked: dict[str, Any]) -> str:
        """The text for one task."""
        if asked["task"] == "class":
            return self._complete(str(asked["prompt"]), 8, self._grammar)
        if self.is_own:
            return self._complete(phrases.prompt_of(asked["names"]), 96, None)
        facts = json.dumps(asked["facts"], ensure_ascii=False)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Facts: {facts}"}]
        said = self._model.create_chat_completion(messages=messages, max_tokens=MOST_TOKENS, temperature=0.0)
        return str(said["choices"][0]["message"]["content"])

    def _complete(self, prompt: str, most: int, grammar: Any) -> str:
        said = self._model.create_completion(prompt, max_tokens=most, temperature=0.0, grammar=grammar, stop=["</s>"])
        return str(said["choices"][0]["text"])


def main(path: Path, digest: str) -> None:
    """Serve until the input ends."""
    os.nice(19)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the library prints must not look like an answer
    if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        print(json.dumps({"error": f"{path} is damaged: its hash is not the card's"}), file=out)
        return
    try:
        model = Model(path)
    except Exception as error:  # also a library that is not installed
        print(json.dumps({"error": f"the model cannot be loaded: {error}"}), file=out)
        return
    print(json.dumps({"ready": True, "own": model.is_own}), file=out)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            print(json.dumps({"id": asked["id"], "text": model.answer(asked)}), file=out)
        except Exception as error:
            print(json.dumps({"id": asked["id"], "error": str(error)}), file=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")

"""Single keys of a terminal, without Enter."""

import codecs
import os
import re
import select
import termios
import tty
from types import TracebackType

_NAMES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left",
    "\x1b[5~": "page-up", "\x1b[6~": "page-down",
    "\x1b[H": "home", "\x1b[F": "end", "\x1b[1~": "home", "\x1b[4~": "end",
    "\x1b": "escape", "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace",
    "\x03": "ctrl-c",
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)

_BEGUN = re.compile(r"\x1b(\[[0-9;]*[ -/]*|O)?\Z")
REST_S = 0.05  # the other bytes of a key follow its escape character within this time, else it was the key Esc


def keys_of(text: str) -> list[str]:
    """The keys that a terminal sent: characters, and names of special keys; unknown ones are skipped.

    Examples
    --------
    >>> keys_of("a" + chr(27) + "[A" + chr(27))
    ['a', 'up', 'escape']
    """
    found = (_NAMES.get(key, key) for key in _KEY.findall(text))
    return [key for key in found if key in _NAMES.values() or (len(key) == 1 and key.isprintable())]


class KeyReader:
    """Reads keys from a terminal inside a ``with`` block, and restores the terminal at its end.

    Parameters
    ----------
    fd : int
        The terminal.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[object] | None = None
        self._rest = ""  # the beginning of a key whose other bytes are on their way
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> "KeyReader":
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]

    def read(self, timeout_s: float) -> list[str]:
        """The keys pressed within ``timeout_s``; ``q`` if the terminal is gone."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if not ready:
            return []
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        if not data:
            return ["q"]
        text = self._rest + self._decoder.decode(data)
        begun = _BEGUN.search(text)
        if begun is None or not select.select([self._fd], [], [], REST_S)[0]:
            self._rest = ""
            return keys_of(text)
        self._rest = begun[0]  # the network may split the bytes of one key
        return keys_of(text[: begun.start()])

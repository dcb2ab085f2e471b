"""The malformed payloads of the simulator, by the reason that a gateway must report. Plain Python, no kernel."""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import FIRST_MALFORMED, Reason

LAST = int(Reason.TOO_DEEP)  # the next, NOT_STRICT, is malformed only with KLAIS_JSON_STRICT
KINDS = LAST - FIRST_MALFORMED + 1

# Short frames, and those with a wrong magic or device id, have a defect in the header, so they have no payload here.
PAYLOADS: dict[Reason, tuple[bytes, ...]] = {
    Reason.BAD_UTF8: (b'{"t":"\xc3\x28"}', b'{"t":"\xff"}', b'{"t":"\xed\xa0\x80"}', b'{"\xc0\xaf":1}'),
    Reason.BAD_JSON: (
        b'{"t":21.5',
        b'{"t":NaN}',
        b'{"t":-Infinity}',
        b'{"t":01}',
        b'{"t":1}x',
        b'{"t":1,}',
        b"{'t':1}",
        b'{"t" 1}',
        b'{"t":"\\x"}',
        b'{"t":"a\nb"}',
        b"",
    ),
    Reason.NOT_OBJECT: (b"[21.5,48.2]", b'"21.5"', b"21.5", b"null", b"true"),
    Reason.TOO_DEEP: (b'{"d":' + b"[" * 40 + b"]" * 40 + b"}", b'{"d":' * 40 + b"1" + b"}" * 40),
}


def payload_table() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All payloads as columns: bytes uint8 [b] back to back, starts int64 [p + 1], and first int64 [KINDS + 1].

    The payloads of reason r are those numbered ``first[r - FIRST_MALFORMED]`` to ``first[r - FIRST_MALFORMED + 1]``.
    """
    texts: list[bytes] = []
    first = [0]
    for number in range(FIRST_MALFORMED, LAST + 1):
        texts += PAYLOADS.get(Reason(number), ())
        first.append(len(texts))
    starts = np.concatenate(([0], np.cumsum([len(text) for text in texts]))).astype(np.int64)
    return np.frombuffer(b"".join(texts), np.uint8), starts, np.array(first, np.int64)

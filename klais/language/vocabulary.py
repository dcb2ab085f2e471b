"""The vocabulary of the small model: control tokens, bytes, and each word as a separate token (pure)."""

from klais.language import phrases, text

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
BYTES = 256


def words() -> list[str]:
    """All words, in the order of their tokens (after three control tokens and 256 bytes)."""
    found = [text.ASK, *text.class_words(), *text.window_words(), phrases.BEGIN, ":"]
    found += [phrases.fact_word(name) for name in phrases.FACTS]
    return found + phrases.answer_words()


def tokens() -> list[str]:
    """Text of every token; bytes as ``<0x0A>``."""
    return [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(BYTES)), *words()]


def ids() -> dict[str, int]:
    """Token number of each text."""
    return {word: at for at, word in enumerate(tokens())}

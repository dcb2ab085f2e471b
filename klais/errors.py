"""One exception tree. ``retriable`` tells a caller whether the same call may succeed later."""


class KlaisError(Exception):
    """Base of all errors that KLAIS raises on purpose; the message says what, the values, and what to do."""

    retriable = False


class ConfigError(KlaisError):
    """The configuration cannot be used; lists every problem, each with value, unit and range."""


class KafkaUnavailable(KlaisError):
    """No broker answers (yet)."""

    retriable = True


class KafkaForbidden(KlaisError):
    """A broker answers and refuses: the login lacks a right, or is wrong."""


class TopicMismatch(KlaisError):
    """A topic exists with settings or a partition count that KLAIS cannot work with."""


class OffsetGone(KlaisError):
    """A partition no longer (or not yet) holds the offset that was asked for, as after retention.

    ``log_start`` and ``log_end`` are the offsets it holds: from the first up to, not including, the second.
    """

    def __init__(self, message: str, log_start: int, log_end: int) -> None:
        super().__init__(message)
        self.log_start = log_start
        self.log_end = log_end


class BatchFormatError(KlaisError):
    """A record on the staging topic is not a KFB1 frame batch that this reader knows."""


class JournalFormatError(KlaisError):
    """A journal or checkpoint record has a version or a shape that this code does not read."""


class OtherVersion(JournalFormatError):
    """A journal or checkpoint record of another version of KLAIS; the message says what to do."""


class LaneFenced(KlaisError):
    """Another owner took the lane's producer epoch: this one must stop at once, without flushing."""


class EpochRenewal(KlaisError):
    """Not a fault: the lane's producer epoch is due for renewal, so it checkpoints and starts a new life."""

    retriable = True


class LaneFailed(KlaisError):
    """The lane cannot go on (a send failed for good); it must recover from checkpoint and journal."""

    retriable = True


class OutputRefused(LaneFailed):
    """Kafka refuses a batch of ``count`` records because of what is in it: the same bytes will not pass later.

    The broker has appended nothing of it, so the sender may go on with another batch in its place.
    """

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class SetupMissing(KlaisError):
    """Something KLAIS needs on this machine is not installed; the message says how to get it."""


class NotPrivate(KlaisError):
    """Another user owns or may change a file or folder that KLAIS would use; names it and says what to do."""


class LockHeld(KlaisError):
    """Another process holds a lock; names what it protects and, where readable, the process."""

    retriable = True


class PortInUse(KlaisError):
    """A port KLAIS was told to listen on is taken; names the port and, where readable, the process."""


class SourceUnavailable(KlaisError):
    """A source of the edge does not work on this machine, or not with these settings; says why and what to do."""


class BrokerOwned(KlaisError):
    """Another process of KLAIS owns the embedded broker of this state folder; names it."""


class XdpUnavailable(KlaisError):
    """The XDP filter cannot be reached or loaded (no root, no bpffs, not loaded yet); says why and what to do."""

    retriable = True


class XdpForeign(KlaisError):
    """An interface carries an XDP program that is not ours; names it. It is neither replaced nor removed."""


class SpoolFull(KlaisError):
    """The disk spool has reached its bound."""

    retriable = True


class SpoolInUse(KlaisError):
    """Another process owns the folder of the disk spool."""


class EdgeUnavailable(KlaisError):
    """No edge answers at its REST address (yet), or none of the processes behind a common one."""

    retriable = True


class WorkerUnavailable(KlaisError):
    """No worker answers at its web address (yet), or it refuses what was asked."""

    retriable = True


class ModelRefused(KlaisError):
    """A model file is damaged, of another version, or somebody else's; the next one in the chain is used."""


class ModelUnavailable(KlaisError):
    """A model does not answer: none is there, it is busy, it failed, or it took too long."""

    retriable = True

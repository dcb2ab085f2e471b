"""All exceptions of KLAIS, in one tree. ``retriable`` is true if the same call may succeed later."""


class KlaisError(Exception):
    """Base of all errors that KLAIS raises on purpose. The message has the problem, the values, and a fix."""

    retriable = False


class ConfigError(KlaisError):
    """The configuration is invalid. Lists every problem with value, unit and range."""


class KafkaUnavailable(KlaisError):
    """No broker responds (yet)."""

    retriable = True


class ChangedMeanwhile(KlaisError):
    """Other processes change the same record all the time; ``author`` wrote the newest one."""

    retriable = True

    def __init__(self, message: str, author: str) -> None:
        super().__init__(message)
        self.author = author


class KafkaForbidden(KlaisError):
    """A broker refuses the request: the login lacks a right, or is wrong."""


class TopicMismatch(KlaisError):
    """A topic has settings or a partition count that KLAIS does not support."""


class OffsetGone(KlaisError):
    """A partition no longer (or not yet) has the requested offset, for example because of retention.

    ``log_start`` and ``log_end`` are its offsets: from the first up to, but not including, the second.
    """

    def __init__(self, message: str, log_start: int, log_end: int) -> None:
        super().__init__(message)
        self.log_start = log_start
        self.log_end = log_end


class BatchFormatError(KlaisError):
    """A record on the staging topic is not a KFB1 frame batch of a known version."""


class JournalFormatError(KlaisError):
    """A journal or checkpoint record has an unknown version or format."""


class OtherVersion(JournalFormatError):
    """A journal or checkpoint record of another version of KLAIS; the message says what to do."""


class LaneFenced(KlaisError):
    """Another owner took the lane's producer epoch: this one must stop immediately, without flushing."""


class EpochRenewal(KlaisError):
    """Not an error: the lane's producer epoch must be renewed, so it checkpoints and starts a new session."""

    retriable = True


class LaneFailed(KlaisError):
    """The lane cannot continue (a send failed permanently) and must recover from checkpoint and journal."""

    retriable = True


class OutputRefused(LaneFailed):
    """Kafka refuses a batch of ``count`` records for its content: the same bytes would be refused again.

    The broker has appended none of it, so the sender may continue with another batch in its place.
    """

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class SetupMissing(KlaisError):
    """Required software is not installed on this machine; the message says how to install it."""


class NotPrivate(KlaisError):
    """Another user owns or can change a file or folder that KLAIS would use; the message names it and the fix."""


class LockHeld(KlaisError):
    """Another process holds a lock; names what the lock protects and, if readable, the process."""

    retriable = True


class PortInUse(KlaisError):
    """A port to listen on is in use; names the port and, if readable, the process."""


class SourceUnavailable(KlaisError):
    """A source of the edge does not work on this machine, or with these settings; gives the reason and the fix."""


class BrokerOwned(KlaisError):
    """Another process of KLAIS owns the embedded broker of this state folder; names it."""


class XdpUnavailable(KlaisError):
    """The XDP filter cannot be reached or loaded (no root, no bpffs, not loaded yet); gives the reason and the fix."""

    retriable = True


class XdpForeign(KlaisError):
    """An interface has an XDP program of another owner, which is neither replaced nor removed; names it."""


class RulesFull(KlaisError):
    """The map of the XDP filter's rules is full, and none of them has expired."""


class SourceBlocksFull(KlaisError):
    """The maximum number of source addresses is blocked; says what to do."""


class SpoolFull(KlaisError):
    """The disk spool has reached its size limit."""

    retriable = True


class SpoolInUse(KlaisError):
    """Another process owns the folder of the disk spool."""


class EdgeUnavailable(KlaisError):
    """No edge responds at its REST address (yet), or none of the processes behind a common one."""

    retriable = True


class WorkerUnavailable(KlaisError):
    """No worker responds at its web address (yet), or it refuses the request."""

    retriable = True


class ModelRefused(KlaisError):
    """A model file is damaged, of another version, or owned by another user; the next model of the chain is used."""


class ModelNotWritten(KlaisError):
    """A model cannot be stored: its folder cannot be written, or the disk is full."""


class ModelUnavailable(KlaisError):
    """A model does not respond: it is missing, busy, failed, or took too long."""

    retriable = True

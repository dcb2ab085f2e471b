"""Configuration of the embedded broker: its properties, its JVM flags, its files (pure text)."""

from pathlib import Path

from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.topics import MAX_RECORD_BYTES
from klais.system.private_files import named_folder, own_folder

HOST = "127.0.0.1"


class BrokerFiles:
    """Files of one embedded broker, all below ``<state_dir>/kafka``."""

    def __init__(self, settings: Settings) -> None:
        self.state = settings.state_dir.expanduser().absolute()
        self.root = self.state / "kafka"
        self.data = self.root / "data"
        self.properties = self.root / "server.properties"
        self.server_log = self.root / "server.log"
        self.jvm_log = self.root / "jvm.log"
        self.lock = self.root / "owner.lock"
        self.owner = self.root / "owner.json"
        self.supervisor_log = self.root / "supervisor.log"

    def make(self) -> None:
        """Create the folder, or check the existing one.

        Raises
        ------
        klais.errors.NotPrivate
            If another user owns it or the state folder, or has write access.
        klais.errors.SetupMissing
            If it cannot be created.
        """
        try:
            named_folder(self.state, "KLAIS_STATE_DIR")
            own_folder(self.root)
        except OSError as error:
            raise SetupMissing(f"cannot create {self.root}: {error.strerror}. Set KLAIS_STATE_DIR") from None


def server_properties(settings: Settings, files: BrokerFiles, controller_port: int) -> str:
    """``server.properties`` of a single KRaft node on loopback, as text."""
    controller = f"{HOST}:{controller_port}"
    broker = f"{HOST}:{settings.kafka_port}"
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        # Static voters: the controller's port may change at each start.
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": files.data,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "group.coordinator.threads": 1,  # for the few groups of one machine; each wakes up five times a second
        # A mistyped name must not create a topic with the wrong settings.
        "auto.create.topics.enable": "false",
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 5,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 5,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # One worker need not wait for others to join.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "message.max.bytes": MAX_RECORD_BYTES,
        "replica.fetch.max.bytes": MAX_RECORD_BYTES,
        "log.retention.check.interval.ms": 60_000,
        # The default of 128 MiB would be a quarter of the heap; 24 bytes per key: 1.2 million keys in one pass.
        "log.cleaner.dedupe.buffer.size": 32 << 20,
        "log.cleaner.threads": 1,
        "log.cleaner.backoff.ms": 5000,
        # No other controller waits for records of this node: it need not write an empty one twice a second.
        "metadata.max.idle.interval.ms": 0,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


JIT_FLAGS = {"quick": ["-XX:TieredStopAtLevel=1"], "full": []}


def jvm_flags(settings: Settings, files: BrokerFiles) -> list[str]:
    """Flags of the broker's Java.

    Chosen by measurement (2 cores shared with the load, Kafka 4.4, Java 17). The serial collector: 220 MB resident
    instead of 325 MB with G1, and p99 of a small request 0.8 ms instead of 3.6 ms. Half of the heap is for young
    objects: a collection pauses the broker for 13 to 30 ms, once in six seconds at 50,000 frames/s, instead of once a
    second with the default sizes. The compiler (``KLAIS_KAFKA_JIT``): `quick` starts in 1.7 s instead of 2.2 s and has
    its full speed immediately. `full` optimizes frequent code: after a minute of 50,000 frames/s in 270 frame batches
    per second through the whole system, the broker's threads used 28 % of a core instead of 44 %, and ``bench path``
    reached 239,000 and 244,000 frames/s instead of 215,000 and 233,000. But in the first minutes it sometimes occupies
    a core for tenths of a second (p99 of the whole path 120 to 290 ms, 29 to 49 ms with `quick`). `full` is for
    machines with spare cores.
    """
    return [
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",  # counters for jstat: a thread of the JVM would wake up 20 times a second for them
        *JIT_FLAGS[settings.kafka_jit],
        f"-Xmx{settings.kafka_heap_mb}m",
        f"-Xms{settings.kafka_heap_mb}m",
        f"-Xmn{settings.kafka_heap_mb // 2}m",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.xml')}",
        f"-Dklais.kafka.log={files.server_log}",
    ]

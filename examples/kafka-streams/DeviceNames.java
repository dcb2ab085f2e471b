// Kafka Streams on iot_telemetry: joins each record with the name of its device, and counts records by minute.
//
// Both run without a repartition topic: KLAIS puts a device into the partition that Kafka's default partitioner
// chooses for its id, so a table that any Java producer wrote is co-partitioned, if its topic has as many partitions.
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;

public final class DeviceNames {
    // No record is late: its timestamp is the broker's clock at the append.
    static final TimeWindows WINDOWS = TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1));

    static Topology topology(String telemetry, String names) {
        StreamsBuilder builder = new StreamsBuilder();
        Consumed<String, String> texts = Consumed.with(Serdes.String(), Serdes.String());
        KStream<String, String> records = builder.stream(telemetry, texts);
        KTable<String, String> table = builder.table(names, texts);
        records.join(table, (payload, name) -> name)
            .foreach((device, name) -> print("joined", device, name));
        records.groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
            .windowedBy(WINDOWS)
            .count()
            .toStream()
            .foreach((device, count) -> print("count", device.key(), device.window().start() + "\t" + count));
        return builder.build();
    }

    static void print(String what, String device, String value) {
        System.out.println(what + "\t" + device + "\t" + value);
    }

    // A name holds from the beginning of time: a record joins only with what its table held at the record's time.
    static void write(String bootstrap, String topic, List<String> devices) {
        Map<String, Object> options = new HashMap<>();
        options.put("bootstrap.servers", bootstrap);
        try (var producer = new KafkaProducer<>(options, new StringSerializer(), new StringSerializer())) {
            for (String device : devices) {
                producer.send(new ProducerRecord<>(topic, null, 0L, device, "name of " + device));
            }
        }
    }

    static void run(String bootstrap, String telemetry, String names, String state) throws InterruptedException {
        Properties options = new Properties();
        options.put(StreamsConfig.APPLICATION_ID_CONFIG, telemetry + "-names");
        options.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        options.put(StreamsConfig.STATE_DIR_CONFIG, state);
        // Counts each record once, whatever fails.
        options.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        options.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "-1"); // the broker's default
        options.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
            BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        options.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        Topology topology = topology(telemetry, names);
        System.out.println(topology.describe());
        KafkaStreams streams = new KafkaStreams(topology, options);
        CountDownLatch over = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            over.countDown();
        }));
        streams.start();
        over.await();
    }

    public static void main(String[] given) throws InterruptedException {
        if (given.length > 3 && given[0].equals("write")) {
            write(given[1], given[2], List.of(given).subList(3, given.length));
        } else if (given.length == 5 && given[0].equals("run")) {
            run(given[1], given[2], given[3], given[4]);
        } else {
            System.err.println("usage: DeviceNames write BOOTSTRAP NAMES_TOPIC DEVICE...");
            System.err.println("       DeviceNames run BOOTSTRAP TELEMETRY_TOPIC NAMES_TOPIC STATE_FOLDER");
            System.exit(2);
        }
    }
}

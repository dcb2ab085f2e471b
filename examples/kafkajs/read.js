// Reads records from the start of a topic with KafkaJS and prints each as one JSON object a line.
'use strict';
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs');
const lz4 = require('lz4js');

// KLAIS compresses with lz4, and KafkaJS leaves that to a package of your choice.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});

const [bootstrap, topic, records] = process.argv.slice(2);
if (records === undefined) {
  console.error('usage: node read.js BOOTSTRAP TOPIC RECORDS');
  process.exit(2);
}

// A payload is JSON text. The value of a header is bytes, so this prints it as hex. KafkaJS gives a header that a
// record has twice as an array.
function asRow(partition, { offset, timestamp, key, value, headers }) {
  const pairs = Object.entries(headers).flatMap(([name, of]) => [of].flat().map((one) => [name, one.toString('hex')]));
  const row = { partition, offset: Number(offset), at_ms: Number(timestamp) };
  return { ...row, key: key.toString(), payload: value.toString(), headers: pairs };
}

async function main() {
  const kafka = new Kafka({ brokers: bootstrap.split(','), logLevel: logLevel.ERROR });
  const consumer = kafka.consumer({ groupId: `${topic}-read` });
  let left = Number(records);
  let done;
  const over = new Promise((resolve) => { done = resolve; });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      if (left > 0) console.log(JSON.stringify(asRow(partition, message)));
      left -= 1;
      if (left === 0) done();
    },
  });
  await over;
  await consumer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Sends one frame as a device does: one UDP datagram. Needs nothing but Node.js:
//   node examples/send_frame.js 127.0.0.1 5000 sensor-42 1 '{"temperature":21.5}'
'use strict';
const dgram = require('node:dgram');

const [host, port, deviceId, sequence, payload] = process.argv.slice(2);
const id = Buffer.from(deviceId ?? '');
if (payload === undefined || id.length < 1 || id.length > 16) {
  console.error('usage: send_frame HOST PORT DEVICE_ID SEQUENCE PAYLOAD; a device id has 1 to 16 bytes');
  process.exit(2);
}
const head = Buffer.alloc(22); // the id is padded with NUL
head.writeUInt16BE(0xaa55, 0);
id.copy(head, 2);
head.writeUInt32BE(Number(sequence), 18);

const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
socket.send([head, Buffer.from(payload)], Number(port), host, (error) => {
  socket.close();
  if (error) throw error;
});

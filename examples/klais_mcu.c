/* SPDX-License-Identifier: MIT
 *
 * Signed frames on a microcontroller: no allocation, no library, no float, any byte order, reads and writes single
 * bytes only. About 1 KB of code and 120 bytes of stack. Compile it into your firmware and give it two functions:
 *
 *   uint32_t nvm_next_epoch(void);                          a counter in flash or EEPROM, raised and stored once a boot
 *   void udp_send(const uint8_t *datagram, uint16_t size);
 *
 * The key of this device comes from provisioning (`klais auth device-key ID`). Do not let `sequence` wrap: take a new
 * epoch first.
 */
#include <stdint.h>

enum { KLAIS_MAX_PAYLOAD = 128, KLAIS_MAX_FRAME = 22 + KLAIS_MAX_PAYLOAD + 13 };

struct klais_device {
	uint8_t key[16];
	uint8_t id[16]; /* padded with zeros */
	uint8_t generation;
	uint32_t epoch;	   /* nvm_next_epoch() at boot */
	uint32_t sequence; /* of the next frame */
	uint8_t frame[KLAIS_MAX_FRAME];
};

static uint64_t left(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], unsigned count)
{
	while (count--) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = left(v[1], 13) ^ v[0];
		v[3] = left(v[3], 16) ^ v[2];
		v[0] = left(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = left(v[1], 17) ^ v[2];
		v[3] = left(v[3], 21) ^ v[0];
		v[2] = left(v[2], 32);
	}
}

/* Word `at` of the key or of the message; behind the message's end zeros and, in the last byte, its length. */
static uint64_t word_at(const uint8_t *bytes, uint16_t size, uint16_t at)
{
	uint64_t word = 0;
	uint8_t i;

	for (i = 0; i < 8; i++) {
		if ((uint16_t)(at + i) < size)
			word |= (uint64_t)bytes[at + i] << 8 * i;
		else if (i == 7)
			word |= (uint64_t)(size & 255) << 56;
	}
	return word;
}

static uint64_t siphash24(const uint8_t key[16], const uint8_t *bytes, uint16_t size)
{
	uint64_t k0 = word_at(key, 16, 0), k1 = word_at(key, 16, 8), word;
	uint64_t v[4] = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL, k0 ^ 0x6c7967656e657261ULL,
			 k1 ^ 0x7465646279746573ULL};
	uint16_t at;

	for (at = 0; at <= size; at += 8) {
		word = word_at(bytes, size, at);
		v[3] ^= word;
		sip_rounds(v, 2);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Builds the next signed frame in device->frame: its size, or 0 when the payload is too long. */
uint16_t klais_next_frame(struct klais_device *device, const uint8_t *payload, uint16_t size)
{
	uint8_t *frame = device->frame;
	uint16_t i, at;
	uint64_t tag;

	if (size < 2 || size > KLAIS_MAX_PAYLOAD)
		return 0;
	frame[0] = 0xAA;
	frame[1] = 0x56;
	for (i = 0; i < 16; i++)
		frame[2 + i] = device->id[i];
	for (i = 0; i < 4; i++)
		frame[18 + i] = (uint8_t)(device->sequence >> (24 - 8 * i));
	for (i = 0; i < size; i++)
		frame[22 + i] = payload[i];
	at = 22 + size;
	for (i = 0; i < 4; i++)
		frame[at++] = (uint8_t)(device->epoch >> (24 - 8 * i));
	frame[at++] = (uint8_t)(device->generation << 4);
	tag = siphash24(device->key, frame, at);
	for (i = 0; i < 8; i++)
		frame[at++] = (uint8_t)(tag >> 8 * i);
	device->sequence++;
	return at;
}

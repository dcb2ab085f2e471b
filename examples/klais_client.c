/* SPDX-License-Identifier: MIT
 *
 * A device that signs its frames: cc -O2 -o device klais_client.c && ./device KEY_HEX dev-1 127.0.0.1 5000
 * KEY_HEX is the device's key: `klais auth device-key dev-1`. Sign in your own program with klais_frame() and
 * klais_sign().
 */
#define _POSIX_C_SOURCE 200112L
#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KLAIS_HEADER 22
#define KLAIS_TRAILER 13

static uint64_t load64(const uint8_t *p)
{
	uint64_t word = 0;
	int i;

	for (i = 7; i >= 0; i--)
		word = word << 8 | p[i];
	return word;
}

#define ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))
#define ROUND                                                                                                          \
	a += b, c += d, b = ROTATE(b, 13) ^ a, d = ROTATE(d, 16) ^ c, a = ROTATE(a, 32), c += b, a += d,               \
		b = ROTATE(b, 17) ^ c, d = ROTATE(d, 21) ^ a, c = ROTATE(c, 32)

/* SipHash-2-4, 64 bits. */
uint64_t klais_siphash24(const uint8_t key[16], const uint8_t *data, size_t size)
{
	uint64_t k0 = load64(key), k1 = load64(key + 8), word, last = (uint64_t)(size & 255) << 56;
	uint64_t a = k0 ^ 0x736f6d6570736575ULL, b = k1 ^ 0x646f72616e646f6dULL;
	uint64_t c = k0 ^ 0x6c7967656e657261ULL, d = k1 ^ 0x7465646279746573ULL;
	size_t i;

	for (i = 0; i + 8 <= size; i += 8) {
		word = load64(data + i);
		d ^= word;
		ROUND;
		ROUND;
		a ^= word;
	}
	for (; i < size; i++)
		last |= (uint64_t)data[i] << 8 * (i & 7);
	d ^= last;
	ROUND;
	ROUND;
	a ^= last;
	c ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return a ^ b ^ c ^ d;
}

/* Lays out a plain frame: its size, or 0 when it does not fit `room` or the id is too long. */
size_t klais_frame(uint8_t *frame, size_t room, const char *id, uint32_t sequence, const char *payload)
{
	size_t id_size = strlen(id), size = strlen(payload), i;

	if (id_size < 1 || id_size > 16 || size > room || room - size < KLAIS_HEADER + KLAIS_TRAILER)
		return 0;
	memset(frame, 0, KLAIS_HEADER);
	frame[0] = 0xAA;
	frame[1] = 0x55;
	memcpy(frame + 2, id, id_size);
	for (i = 0; i < 4; i++)
		frame[18 + i] = (uint8_t)(sequence >> (24 - 8 * i));
	memcpy(frame + KLAIS_HEADER, payload, size);
	return KLAIS_HEADER + size;
}

/* Signs a plain frame of `size` bytes, behind which 13 bytes are free; its new size. */
size_t klais_sign(uint8_t *frame, size_t size, uint32_t epoch, unsigned generation, const uint8_t key[16])
{
	uint64_t tag;
	size_t i;

	frame[1] = 0x56;
	for (i = 0; i < 4; i++)
		frame[size + i] = (uint8_t)(epoch >> (24 - 8 * i));
	frame[size + 4] = (uint8_t)(generation << 4);
	tag = klais_siphash24(key, frame, size + 5);
	for (i = 0; i < 8; i++)
		frame[size + 5 + i] = (uint8_t)(tag >> 8 * i);
	return size + KLAIS_TRAILER;
}

#ifndef KLAIS_NO_MAIN
int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *to;
	uint8_t key[16], frame[512];
	uint32_t epoch = (uint32_t)time(0), sequence; /* a clock that is right at the start: seconds since 1970 */
	unsigned byte, i;
	size_t size;
	int sock;

	if (argc != 5 || strlen(argv[1]) != 32) {
		fprintf(stderr, "use: %s KEY_HEX DEVICE_ID HOST PORT\n", argv[0]);
		return 2;
	}
	for (i = 0; i < 16; i++) {
		if (sscanf(argv[1] + 2 * i, "%2x", &byte) != 1)
			return 2;
		key[i] = (uint8_t)byte;
	}
	if (getaddrinfo(argv[3], argv[4], &hints, &to)) {
		fprintf(stderr, "no such host: %s\n", argv[3]);
		return 1;
	}
	sock = socket(to->ai_family, SOCK_DGRAM, 0);
	for (sequence = 1; sequence <= 10; sequence++) {
		size = klais_frame(frame, sizeof(frame), argv[2], sequence, "{\"t\":21.5}");
		if (!size)
			return 2;
		size = klais_sign(frame, size, epoch, 0, key);
		if (sendto(sock, frame, size, 0, to->ai_addr, to->ai_addrlen) < 0)
			perror("sendto");
		sleep(1);
	}
	freeaddrinfo(to);
	close(sock);
	return 0;
}
#endif

/* SPDX-License-Identifier: MIT
 *
 * The frame's 22 header bytes: magic, device_id, its hash. The verdicts are those of check_headers in klais/wire/frame.py.
 */
#ifndef KLAIS_DEVICE_H
#define KLAIS_DEVICE_H

#include "bytes.h"
#include "klais.h"

#define KLAIS_FNV_OFFSET 0xcbf29ce484222325ULL
#define KLAIS_FNV_PRIME 0x100000001b3ULL
#define KLAIS_FNV_PRIME_4 0x9ffaac085635bc91ULL /* prime^4 modulo 2^64 */
#define KLAIS_FNV_PRIME_8 0x1efac7090aef4a21ULL /* prime^8 modulo 2^64 */

#define KLAIS_HIGH_BITS 0x8080808080808080ULL

/* The 16 bytes of a device_id as two words, first byte lowest. */
struct klais_id {
	__u64 low, high;
};

KLAIS_INLINE __u64 klais_fnv_steps(__u64 hash, __u64 word, int bytes)
{
	int i;

#pragma unroll
	for (i = 0; i < bytes; i++) {
		hash = (hash ^ (word & 0xFF)) * KLAIS_FNV_PRIME;
		word >>= 8;
	}
	return hash;
}

/* FNV-1a 64 of all 16 bytes. A step over a NUL only multiplies, so the padding is done in one multiplication. */
KLAIS_INLINE __u64 klais_fnv1a(struct klais_id id)
{
	__u64 hash = klais_fnv_steps(KLAIS_FNV_OFFSET, id.low, 8);

	if (id.high == 0)
		return hash * KLAIS_FNV_PRIME_8;
	hash = klais_fnv_steps(hash, id.high, 4);
	if (id.high >> 32 == 0)
		return hash * KLAIS_FNV_PRIME_4;
	return klais_fnv_steps(hash, id.high >> 32, 4);
}

/* Whether the rules may hold one for the device with this key; 0 = surely not. */
KLAIS_INLINE int klais_is_marked(const struct klais_marks *marks, __u64 key)
{
	return (klais_once(marks->bits[(key >> 12) & (KLAIS_MARK_WORDS - 1)]) >> ((key >> 6) & 63)) & 1;
}

/* 0x80 in each byte of `word` that is NUL (Hacker's Delight 6-1: exact in every byte). */
KLAIS_INLINE __u64 klais_nul_bytes(__u64 word)
{
	return ~(((word & ~KLAIS_HIGH_BITS) + ~KLAIS_HIGH_BITS) | word | ~KLAIS_HIGH_BITS);
}

/* Whether `word` has nothing behind its first NUL. */
KLAIS_INLINE int klais_is_padded(__u64 word)
{
	__u64 nul = klais_nul_bytes(word);

	return ((nul | ((nul & -nul) - 1)) & KLAIS_HIGH_BITS) == KLAIS_HIGH_BITS;
}

/*
 * Whether 16 bytes are well-formed UTF-8 (RFC 3629) followed by NULs. `need` continuation bytes are still to come, the next of
 * them within low..high: what rules out overlong forms, surrogates, and values above U+10FFFF.
 */
KLAIS_INLINE int klais_is_utf8(struct klais_id id)
{
	__u32 need = 0, low = 0x80, high = 0xBF, bad = 0, byte;
	__u64 word = id.low;
	int i;

	for (i = 0; i < KLAIS_ID_BYTES; i++) {
		if (i == 8)
			word = id.high;
		byte = word & 0xFF;
		word >>= 8;
		if (need) {
			bad |= byte < low || byte > high;
			need--;
			low = 0x80;
			high = 0xBF;
		} else if (byte >= 0x80) {
			bad |= byte < 0xC2 || byte > 0xF4;
			need = 1 + (byte >= 0xE0) + (byte >= 0xF0);
			low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
			high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
		}
	}
	return !bad && !need;
}

KLAIS_INLINE int klais_is_good_id(struct klais_id id)
{
	if ((id.low & 0xFF) == 0)
		return 0;
	if (klais_nul_bytes(id.low)) {
		if (id.high || !klais_is_padded(id.low))
			return 0;
	} else if (klais_nul_bytes(id.high) && !klais_is_padded(id.high)) {
		return 0;
	}
	return !((id.low | id.high) & KLAIS_HIGH_BITS) || klais_is_utf8(id);
}

/* Reads device_id; the caller has checked that the header is there. */
KLAIS_INLINE struct klais_id klais_read_id(const __u8 *frame)
{
	const __u8 *at = frame + KLAIS_ID_OFFSET;
	struct klais_id id;

	id.low = klais_read32(at) | (__u64)klais_read32(at + 4) << 32;
	id.high = klais_read32(at + 8) | (__u64)klais_read32(at + 12) << 32;
	return id;
}

/*
 * Length and magic of a frame of `length` bytes, of which those before data_end are here. KLAIS_FRAGMENT when the header itself is cut
 * in two.
 */
KLAIS_INLINE klais_found klais_check_magic(const __u8 *frame, const void *data_end, __u64 length)
{
	if (length < KLAIS_HEADER_BYTES)
		return KLAIS_TOO_SHORT;
	if (frame + KLAIS_HEADER_BYTES > (const __u8 *)data_end)
		return KLAIS_FRAGMENT;
	return klais_read16(frame) == klais_be16(KLAIS_MAGIC) ? KLAIS_PASS : KLAIS_BAD_MAGIC;
}

/* Reads and checks device_id of a frame whose header is here. */
KLAIS_INLINE klais_found klais_check_id(const __u8 *frame, struct klais_id *id)
{
	*id = klais_read_id(frame);
	return klais_is_good_id(*id) ? KLAIS_PASS : KLAIS_BAD_DEVICE_ID;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * Tags of signed frames: SipHash-2-4 (Aumasson and Bernstein 2012) under the device's key, which is derived from the
 * key of the generation. A table of device keys is not needed. docs/protocol.md describes the frame.
 */
#ifndef KLAIS_AUTH_H
#define KLAIS_AUTH_H

#include "bytes.h"
#include "klais.h"
#include "parse.h"

#ifndef FORGET /* only the kernel's verifier tracks values, see xdp_filter.c */
#define FORGET(x, mask, any) ((void)(any), (x) &= (mask))
#endif

#define KLAIS_ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

struct klais_sip {
	__u64 a, b, c, d;
};

KLAIS_INLINE void klais_sip_round(struct klais_sip *v)
{
	v->a += v->b;
	v->c += v->d;
	v->b = KLAIS_ROTATE(v->b, 13) ^ v->a;
	v->d = KLAIS_ROTATE(v->d, 16) ^ v->c;
	v->a = KLAIS_ROTATE(v->a, 32);
	v->c += v->b;
	v->a += v->d;
	v->b = KLAIS_ROTATE(v->b, 17) ^ v->c;
	v->d = KLAIS_ROTATE(v->d, 21) ^ v->a;
	v->c = KLAIS_ROTATE(v->c, 32);
}

KLAIS_INLINE struct klais_sip klais_sip_begin(__u64 k0, __u64 k1)
{
	struct klais_sip v = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL, k0 ^ 0x6c7967656e657261ULL,
			      k1 ^ 0x7465646279746573ULL};

	return v;
}

KLAIS_INLINE void klais_sip_absorb(struct klais_sip *v, __u64 word)
{
	v->d ^= word;
	klais_sip_round(v);
	klais_sip_round(v);
	v->a ^= word;
}

KLAIS_INLINE __u64 klais_sip_end(struct klais_sip *v)
{
	klais_sip_round(v);
	klais_sip_round(v);
	klais_sip_round(v);
	klais_sip_round(v);
	return v->a ^ v->b ^ v->c ^ v->d;
}

/* SipHash-2-4-128 of the id: the device's key. */
KLAIS_INLINE void klais_derive_key(const struct klais_generation *generation, struct klais_id id, __u64 *k0, __u64 *k1)
{
	struct klais_sip v = klais_sip_begin(generation->key[0], generation->key[1]);

	v.b ^= 0xee;
	klais_sip_absorb(&v, id.low);
	klais_sip_absorb(&v, id.high);
	klais_sip_absorb(&v, (__u64)KLAIS_ID_BYTES << 56);
	v.c ^= 0xee;
	*k0 = klais_sip_end(&v);
	v.b ^= 0xdd;
	*k1 = klais_sip_end(&v);
}

/* The cache row of a device among the derived keys of this CPU. */
KLAIS_INLINE __u32 klais_known_index(struct klais_id id)
{
	return ((id.low ^ id.high) * 0x9E3779B97F4A7C15ULL) >> (64 - KLAIS_KNOWN_BITS);
}

/* The key of a device: returns 1 when it was cached, 0 when it had to be derived. */
KLAIS_INLINE __u64 klais_device_key(const struct klais_generation *generation, __u64 serial, struct klais_id id,
				    __u64 *k0, __u64 *k1)
{
	const struct klais_known *known = klais_known_at(klais_known_index(id));

	if (known && known->serial == serial && known->id.low == id.low && known->id.high == id.high) {
		*k0 = known->key[0];
		*k1 = known->key[1];
		return 1;
	}
	klais_derive_key(generation, id, k0, k1);
	return 0;
}

KLAIS_INLINE void klais_keep_key(__u64 serial, struct klais_id id, __u64 k0, __u64 k1)
{
	struct klais_known *known = klais_known_at(klais_known_index(id));

	if (known)
		*known = (struct klais_known){id, serial, {k0, k1}};
}

/*
 * Checks the tag of a signed frame: KLAIS_PASS or KLAIS_BAD_MAC. `body` is the number of bytes before the tag, at
 * least KLAIS_MIN_SIGNED_BYTES - KLAIS_MAC_BYTES and at most KLAIS_MAX_CHECKED. Never reads at or beyond the end.
 */
KLAIS_INLINE klais_found klais_check_tag(const struct klais_auth *auth, const __u8 *frame, const __u8 *end, __u64 body,
					 struct klais_id id, __u64 any)
{
	const struct klais_generation *generation;
	const __u8 *at = frame + ((body - 1) & 0x7FF);
	__u64 i, word, serial, k0, k1, kept, left = body & 7;
	struct klais_sip v;

	/* Opaque: the verifier must see the comparison with the end and the read on the same pointer. */
	KLAIS_OPAQUE(at);
	if (at + 1 > end || (*at & 0xCF))
		return KLAIS_BAD_MAC;
	generation = &auth->generations[(*at >> 4) & (KLAIS_GENERATIONS - 1)];
	serial = klais_once(generation->serial);
	if (!serial)
		return KLAIS_BAD_MAC;
	kept = klais_device_key(generation, serial, id, &k0, &k1);
	FORGET(kept, 1, any); /* otherwise the verifier walks the loop once for each of the two values */
	v = klais_sip_begin(k0, k1);
#pragma clang loop unroll(disable)
	for (i = 0; i < KLAIS_MAX_CHECKED / 8; i++) {
		if (i * 8 + 8 > body)
			break;
		at = frame + i * 8;
		KLAIS_OPAQUE(at);
		if (at + 8 > end)
			return KLAIS_BAD_MAC;
		klais_sip_absorb(&v, klais_read64(at));
	}
	FORGET(body, 0x7FF, any); /* each iteration narrowed its range: the rest would be walked for each one */
	at = frame + ((body - 8) & 0x7FF); /* the end of the body, in one word */
	KLAIS_OPAQUE(at);
	if (at + 8 > end)
		return KLAIS_BAD_MAC;
	word = left ? klais_read64(at) >> (64 - 8 * left) : 0;
	klais_sip_absorb(&v, word | (body & 255) << 56);
	v.c ^= 0xff;
	at = frame + body;
	KLAIS_OPAQUE(at);
	if (at + 8 > end)
		return KLAIS_BAD_MAC;
	if (klais_sip_end(&v) != klais_read64(at))
		return KLAIS_BAD_MAC;
	if (!kept)
		klais_keep_key(serial, id, k0, k1);
	return KLAIS_PASS;
}

/*
 * Checks the tag of a frame whose header is in the packet. KLAIS_UNVERIFIED: the filter cannot check it. This comes
 * before all other checks because the verifier walks the loop once for each state in which it is entered.
 */
KLAIS_INLINE klais_found klais_find_tag(const struct klais_auth *auth, const struct klais_packet *packet,
					const __u8 *frame, const __u8 *data_end, struct klais_id id, __u64 any)
{
	__u64 mode = klais_once(auth->mode), length = packet->length, body = length - KLAIS_MAC_BYTES;

	if (!mode)
		return KLAIS_PASS;
	if (klais_read16(frame) != klais_be16(KLAIS_SIGNED_MAGIC))
		return mode & KLAIS_AUTH_REQUIRE ? KLAIS_UNSIGNED : KLAIS_PASS;
	if (!(mode & KLAIS_AUTH_CHECK))
		return KLAIS_PASS;
	if (length > klais_once(auth->max_bytes) || klais_is_fragment(packet))
		return KLAIS_UNVERIFIED;
	FORGET(body, 0x7FF, any);
	if (body < KLAIS_MIN_SIGNED_BYTES - KLAIS_MAC_BYTES || body > KLAIS_MAX_CHECKED)
		return KLAIS_UNVERIFIED;
	return klais_check_tag(auth, frame, data_end, body, id, any);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The sender's address, as IPv6 or v4-mapped, and the prefix by which sources share a bucket.
 */
#ifndef KLAIS_SOURCE_H
#define KLAIS_SOURCE_H

#include "bytes.h"
#include "klais.h"
#include "parse.h"

/*
 * The address in the IP header at `ip`, the offset found by parsing. Returns 0 when it is not in the packet (never,
 * after parsing). The offset of an IP header is a multiple of 2 but not of 4, so it is read in 16-bit words.
 */
KLAIS_INLINE int klais_read_source(const __u8 *ip, const void *data_end, struct klais_address *from)
{
	int i;

	if (ip + KLAIS_IPV4_BYTES > (const __u8 *)data_end)
		return 0;
	if ((ip[0] >> 4) != 6) {
#pragma unroll
		for (i = 0; i < 5; i++)
			from->halves[i] = 0;
		from->halves[5] = 0xFFFF;
		from->halves[6] = klais_read16(ip + 12);
		from->halves[7] = klais_read16(ip + 14);
		return 1;
	}
	if (ip + KLAIS_IPV6_BYTES > (const __u8 *)data_end)
		return 0;
#pragma unroll
	for (i = 0; i < 8; i++)
		from->halves[i] = klais_read16(ip + 8 + 2 * i);
	return 1;
}

KLAIS_INLINE int klais_is_v4(const struct klais_address *address)
{
	return address->words[0] == 0 && (__u32)address->words[1] == 0xFFFF0000;
}

/* The prefix by which sources share a bucket. */
KLAIS_INLINE struct klais_address klais_source_prefix(const struct klais_config *config,
		const struct klais_address *from)
{
	const struct klais_address *mask = klais_is_v4(from) ? &config->ipv4_mask : &config->ipv6_mask;
	struct klais_address prefix;

	prefix.words[0] = from->words[0] & klais_once(mask->words[0]);
	prefix.words[1] = from->words[1] & klais_once(mask->words[1]);
	return prefix;
}

/* The whole address, as the key for src_allow and src_block. */
KLAIS_INLINE struct klais_prefix klais_source_key(const struct klais_address *from)
{
	struct klais_prefix key = {
		.prefix_bits = 8 * (sizeof(key.family) + sizeof(key.address)),
		.family = klais_is_v4(from) ? 4 : 6,
		.address = *from,
	};

	return key;
}

#endif

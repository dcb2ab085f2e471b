/* SPDX-License-Identifier: MIT
 *
 * From an Ethernet packet to the payload of a UDP datagram for one of our ports. No BPF helper, no clock: the same lines
 * compile with cc for the tests.
 */
#ifndef KLAIS_PARSE_H
#define KLAIS_PARSE_H

#include "bytes.h"
#include "klais.h"

#define KLAIS_MAX_TAGS 2
#define KLAIS_MAX_EXTENSIONS 6 /* IPv6 extension headers; RFC 8200 recommends at most one of each kind, the stack takes 8 */

#define KLAIS_ETH_BYTES 14
#define KLAIS_TAG_BYTES 4
#define KLAIS_IPV4_BYTES 20
#define KLAIS_IPV6_BYTES 40
#define KLAIS_UDP_BYTES 8

#define KLAIS_ETH_IPV4 0x0800
#define KLAIS_ETH_IPV6 0x86DD
#define KLAIS_ETH_8021Q 0x8100
#define KLAIS_ETH_8021AD 0x88A8

#define KLAIS_NEXT_HOP_BY_HOP 0
#define KLAIS_NEXT_UDP 17
#define KLAIS_NEXT_ROUTING 43
#define KLAIS_NEXT_FRAGMENT 44
#define KLAIS_NEXT_DESTINATION 60

#define KLAIS_IPV4_OFFSET_MASK 0x1FFF
#define KLAIS_IPV4_MORE 0x2000
#define KLAIS_IPV6_OFFSET_MASK 0xFFF8
#define KLAIS_IPV6_MORE 0x0001

/*
 * A datagram of ours; places are offsets from the first byte of the packet. All of its headers are here; its payload as far as the packet goes: a
 * first fragment has less than `length`.
 */
struct klais_packet {
	__u64 payload;
	__u64 address; /* source, 4 or 16 bytes */
	__u64 port_be; /* source, 2 bytes */
	__u64 length;  /* of the payload, by the UDP header; Ethernet padding is not in it */
	__u64 is_ipv6;
	__u64 is_fragment; /* the first of several */
};

KLAIS_INLINE int klais_is_our_port(const struct klais_ports *ports, __u16 port)
{
	return (klais_once(ports->bits[(port >> 6) & (KLAIS_PORT_WORDS - 1)]) >> (port & 63)) & 1;
}

/* UDP header at `udp`, of a datagram that the IP header says ends `rest` bytes behind it. */
KLAIS_INLINE enum klais_verdict klais_parse_udp(const __u8 *data, const __u8 *udp, const __u8 *data_end, __u32 rest,
						const struct klais_ports *ports, struct klais_packet *out)
{
	__u32 udp_length;

	if (udp + KLAIS_UDP_BYTES > data_end)
		return KLAIS_NOT_OURS;
	if (!klais_is_our_port(ports, klais_be16(klais_read16(udp + 2))))
		return KLAIS_NOT_OURS;
	udp_length = klais_be16(klais_read16(udp + 4));
	/* The stack refuses such datagrams; the length of a fragmented one counts bytes that are still to come. */
	if (udp_length < KLAIS_UDP_BYTES || (udp_length > rest && !out->is_fragment))
		return KLAIS_NOT_OURS;
	out->port_be = udp - data;
	out->payload = out->port_be + KLAIS_UDP_BYTES;
	out->length = udp_length - KLAIS_UDP_BYTES;
	return KLAIS_PASS;
}

KLAIS_INLINE enum klais_verdict klais_parse_ipv4(const __u8 *data, const __u8 *ip, const __u8 *data_end,
						 const struct klais_ports *ports, struct klais_packet *out)
{
	__u32 header_bytes, total_bytes, fragment;

	if (ip + KLAIS_IPV4_BYTES > data_end || (ip[0] >> 4) != 4)
		return KLAIS_NOT_OURS;
	header_bytes = (ip[0] & 15) * 4;
	total_bytes = klais_be16(klais_read16(ip + 2));
	if (ip[9] != KLAIS_NEXT_UDP || header_bytes < KLAIS_IPV4_BYTES || total_bytes < header_bytes ||
	    total_bytes > (__u32)(data_end - ip))
		return KLAIS_NOT_OURS;
	fragment = klais_be16(klais_read16(ip + 6));
	if (fragment & KLAIS_IPV4_OFFSET_MASK)
		return KLAIS_FRAGMENT;
	out->is_fragment = (fragment & KLAIS_IPV4_MORE) != 0;
	out->is_ipv6 = 0;
	out->address = ip + 12 - data;
	return klais_parse_udp(data, ip + header_bytes, data_end, total_bytes - header_bytes, ports, out);
}

KLAIS_INLINE enum klais_verdict klais_parse_ipv6(const __u8 *data, const __u8 *ip, const __u8 *data_end,
						 const struct klais_ports *ports, struct klais_packet *out)
{
	const __u8 *at = ip + KLAIS_IPV6_BYTES;
	__u32 rest, header_bytes, fragment, next;
	int i;

	if (at > data_end || (ip[0] >> 4) != 6)
		return KLAIS_NOT_OURS;
	rest = klais_be16(klais_read16(ip + 4));
	if (rest > (__u32)(data_end - at))
		return KLAIS_NOT_OURS;
	next = ip[6];
	out->is_fragment = 0;
	out->is_ipv6 = 1;
	out->address = ip + 8 - data;
#pragma unroll
	for (i = 0; i <= KLAIS_MAX_EXTENSIONS; i++) {
		if (next == KLAIS_NEXT_UDP)
			return klais_parse_udp(data, at, data_end, rest, ports, out);
		if (i == KLAIS_MAX_EXTENSIONS || at + 8 > data_end)
			return KLAIS_NOT_OURS;
		header_bytes = 8;
		if (next == KLAIS_NEXT_FRAGMENT) {
			fragment = klais_be16(klais_read16(at + 2));
			if (fragment & KLAIS_IPV6_OFFSET_MASK)
				return KLAIS_FRAGMENT;
			out->is_fragment |= fragment & KLAIS_IPV6_MORE;
		} else if (next == KLAIS_NEXT_HOP_BY_HOP || next == KLAIS_NEXT_ROUTING || next == KLAIS_NEXT_DESTINATION) {
			header_bytes = (at[1] + 1) * 8;
		} else {
			return KLAIS_NOT_OURS;
		}
		if (header_bytes > rest)
			return KLAIS_NOT_OURS;
		next = at[0];
		rest -= header_bytes;
		at += header_bytes;
	}
	return KLAIS_NOT_OURS;
}

/* KLAIS_PASS with `out` filled, KLAIS_NOT_OURS or KLAIS_FRAGMENT. Never reads at or behind data_end. */
KLAIS_INLINE enum klais_verdict klais_parse(const void *data, const void *data_end, const struct klais_ports *ports,
					    struct klais_packet *out)
{
	const __u8 *at = data, *end = data_end;
	__u16 type;
	int i;

	if (at + KLAIS_ETH_BYTES > end)
		return KLAIS_NOT_OURS;
	type = klais_be16(klais_read16(at + 12));
	at += KLAIS_ETH_BYTES;
#pragma unroll
	for (i = 0; i < KLAIS_MAX_TAGS; i++) {
		if (type != KLAIS_ETH_8021Q && type != KLAIS_ETH_8021AD)
			break;
		if (at + KLAIS_TAG_BYTES > end)
			return KLAIS_NOT_OURS;
		type = klais_be16(klais_read16(at + 2));
		at += KLAIS_TAG_BYTES;
	}
	if (type == KLAIS_ETH_IPV4)
		return klais_parse_ipv4(data, at, end, ports, out);
	if (type == KLAIS_ETH_IPV6)
		return klais_parse_ipv6(data, at, end, ports, out);
	return KLAIS_NOT_OURS;
}

#endif

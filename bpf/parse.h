/* SPDX-License-Identifier: MIT
 *
 * From an Ethernet packet to the payload of a UDP datagram for one of our ports. It uses no BPF helper and no clock,
 * so cc compiles the same code for the tests.
 */
#ifndef KLAIS_PARSE_H
#define KLAIS_PARSE_H

#include "bytes.h"
#include "klais.h"

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
 * One of our datagrams; positions are offsets from the first byte of the packet. All of its headers are in the packet
 * and, if the payload has at least that size, the frame's 22 header bytes. A first fragment holds less than `length`.
 */
struct klais_packet {
	__u64 ip;     /* IP header; with KLAIS_IS_FRAGMENT added in the first of several fragments (saves a register) */
	__u64 udp;    /* UDP header; the payload follows it */
	__u64 length; /* of the payload, from the UDP header; excludes Ethernet padding */
};

#define KLAIS_IS_FRAGMENT 0x2000
#define KLAIS_IP_MASK 0x3F

KLAIS_INLINE __u64 klais_ip_at(const struct klais_packet *packet)
{
	return packet->ip & KLAIS_IP_MASK;
}

KLAIS_INLINE int klais_is_fragment(const struct klais_packet *packet)
{
	return (packet->ip & KLAIS_IS_FRAGMENT) != 0;
}

/* A packet: its bytes are data <= p < end. */
struct klais_view {
	const __u8 *data, *end;
	const struct klais_ports *ports;
	/* KLAIS_NOT_OURS in a register: loading it at each return costs a tenth of the parsing. */
	klais_found not_ours;
};

KLAIS_INLINE struct klais_view klais_view(const void *data, const void *end, const struct klais_ports *ports)
{
	struct klais_view view = {.data = data, .end = end, .ports = ports, .not_ours = KLAIS_NOT_OURS};

	KLAIS_OPAQUE(view.not_ours);
	return view;
}

KLAIS_INLINE int klais_is_our_port(const struct klais_ports *ports, __u64 port)
{
	return (klais_once(ports->bits[(port >> 6) & (KLAIS_PORT_WORDS - 1)]) >> (port & 63)) & 1;
}

/*
 * The IP packet ends within its headers. The stack refuses such packets except as a first fragment: the rest arrives
 * in the next one, although a host may drop it (RFC 7112).
 */
KLAIS_INLINE klais_found klais_is_cut(const struct klais_view *view, const struct klais_packet *out)
{
	return klais_is_fragment(out) ? KLAIS_UNPARSABLE : view->not_ours;
}

/*
 * UDP header at `udp`, of a datagram of which the IP packet holds `rest` bytes. Bytes after them are Ethernet
 * padding: in a first fragment the sender could put another frame header there than the one that the stack will see.
 */
KLAIS_INLINE klais_found klais_parse_udp(const struct klais_view *view, const __u8 *udp, __u64 rest,
		struct klais_packet *out)
{
	__u64 udp_length, port;

	if (udp + KLAIS_UDP_BYTES > view->end || rest < KLAIS_UDP_BYTES)
		return klais_is_cut(view, out);
	port = klais_be16(klais_read16(udp + 2));
	if (!klais_is_our_port(view->ports, port))
		return view->not_ours;
	udp_length = klais_be16(klais_read16(udp + 4));
	if (udp_length == 0)
		return KLAIS_UNPARSABLE; /* over IPv6 Linux takes it as "to the end of the packet" (RFC 2675) */
	/* The stack refuses such datagrams; the length of a fragmented one includes bytes in later fragments. */
	if (udp_length < KLAIS_UDP_BYTES || (udp_length > rest && !klais_is_fragment(out)))
		return view->not_ours;
	if (rest < KLAIS_UDP_BYTES + KLAIS_HEADER_BYTES && udp_length >= KLAIS_UDP_BYTES + KLAIS_HEADER_BYTES)
		return KLAIS_UNPARSABLE; /* a first fragment that cuts the frame header in two */
	out->udp = udp - view->data;
	out->length = udp_length - KLAIS_UDP_BYTES;
	return KLAIS_PASS;
}

KLAIS_INLINE klais_found klais_parse_ipv4(const struct klais_view *view, const __u8 *ip, struct klais_packet *out)
{
	__u64 words, header_bytes, total_bytes, fragment;

	if (ip + KLAIS_IPV4_BYTES > view->end)
		return view->not_ours;
	words = (__u64)ip[0] - 0x45; /* words of options; checks version 4 and at least five words of header */
	if (words > 10 || ip[9] != KLAIS_NEXT_UDP)
		return view->not_ours;
	header_bytes = KLAIS_IPV4_BYTES + words * 4;
	total_bytes = klais_be16(klais_read16(ip + 2));
	if (total_bytes < header_bytes || total_bytes > (__u64)(view->end - ip))
		return view->not_ours;
	out->ip = ip - view->data;
	fragment = klais_read16(ip + 6);
	if (fragment & klais_be16(KLAIS_IPV4_OFFSET_MASK | KLAIS_IPV4_MORE)) {
		if (fragment & klais_be16(KLAIS_IPV4_OFFSET_MASK))
			return KLAIS_FRAGMENT;
		out->ip |= KLAIS_IS_FRAGMENT;
	}
	return klais_parse_udp(view, ip + header_bytes, total_bytes - header_bytes, out);
}

/* The extension headers that Linux follows to a UDP header by default; IPsec and tunnels need configuration. */
KLAIS_INLINE int klais_is_extension(__u64 next)
{
	return next == KLAIS_NEXT_HOP_BY_HOP || next == KLAIS_NEXT_ROUTING || next == KLAIS_NEXT_FRAGMENT ||
	       next == KLAIS_NEXT_DESTINATION;
}

KLAIS_INLINE klais_found klais_parse_ipv6(const struct klais_view *view, const __u8 *ip, struct klais_packet *out)
{
	const __u8 *at = ip + KLAIS_IPV6_BYTES;
	__u64 rest, header_bytes, fragment, next;
	int i;

	if (at > view->end || (ip[0] >> 4) != 6)
		return view->not_ours;
	rest = klais_be16(klais_read16(ip + 4));
	if (rest > (__u64)(view->end - at))
		return view->not_ours;
	next = ip[6];
	out->ip = ip - view->data;
#pragma unroll
	for (i = 0; i <= KLAIS_MAX_EXTENSIONS; i++) {
		if (next == KLAIS_NEXT_UDP)
			return klais_parse_udp(view, at, rest, out);
		if (!klais_is_extension(next))
			return view->not_ours;
		if (i == KLAIS_MAX_EXTENSIONS)
			return KLAIS_UNPARSABLE;
		if (at + 8 > view->end || rest < 8)
			return klais_is_cut(view, out);
		header_bytes = 8;
		if (next == KLAIS_NEXT_FRAGMENT) {
			fragment = klais_be16(klais_read16(at + 2));
			if (fragment & KLAIS_IPV6_OFFSET_MASK)
				return KLAIS_FRAGMENT;
			out->ip |= (fragment & KLAIS_IPV6_MORE) * KLAIS_IS_FRAGMENT;
		} else {
			header_bytes = (at[1] + 1) * 8;
		}
		if (header_bytes > rest)
			return klais_is_cut(view, out);
		next = at[0];
		rest -= header_bytes;
		at += header_bytes;
	}
	return KLAIS_UNPARSABLE;
}

/* KLAIS_PASS with `out` filled, else the reason. Never reads at or beyond the end. */
KLAIS_INLINE klais_found klais_parse(const struct klais_view *view, struct klais_packet *out)
{
	const __u8 *at = view->data;
	__u16 type_be;
	int i;

	if (at + KLAIS_ETH_BYTES > view->end)
		return view->not_ours;
	type_be = klais_read16(at + 12);
	at += KLAIS_ETH_BYTES;
#pragma unroll
	for (i = 0; i <= KLAIS_MAX_TAGS; i++) {
		if (type_be != klais_be16(KLAIS_ETH_8021Q) && type_be != klais_be16(KLAIS_ETH_8021AD))
			break;
		if (i == KLAIS_MAX_TAGS)
			return KLAIS_UNPARSABLE;
		if (at + KLAIS_TAG_BYTES > view->end)
			return view->not_ours;
		type_be = klais_read16(at + 2);
		at += KLAIS_TAG_BYTES;
	}
	if (type_be == klais_be16(KLAIS_ETH_IPV4))
		return klais_parse_ipv4(view, at, out);
	if (type_be == klais_be16(KLAIS_ETH_IPV6))
		return klais_parse_ipv6(view, at, out);
	return view->not_ours;
}

#endif

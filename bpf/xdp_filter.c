// SPDX-License-Identifier: MIT
/*
 * The XDP filter, in processing order: parse, magic, source, device id, tag, rule, device bucket, global bucket,
 * accept, count. Packets that are not ours pass untouched. klais/xdp/loader.py compiles and attaches it; docs/xdp.md
 * explains it.
 */
#include <uapi/linux/bpf.h>

#include "bucket.h"
#include "bytes.h"
#include "device.h"
#include "klais.h"
#include "maps.h"
#include "parse.h"
#include "source.h"

#define klais_set_at(index) klais_row(sets, index)
#define klais_owners_at(index) klais_row(owners, index)
#define klais_known_at(index) klais_row(known, index)
#include "table.h"

#ifdef KLAIS_STIR_DEVICES
#include "stir.h"
#else
#define stir(ctx)
#endif

/*
 * Makes the verifier forget all it has deduced about a number, except that no bit outside of `mask` is set (`any` is a
 * number that it knows nothing about). Otherwise it would walk the rest of the program once for each path through the
 * headers, and give up.
 */
#define FORGET(x, mask, any) \
	do {                                                                                                                 \
		asm volatile("%0 ^= %1" : "+r"(x) : "r"(any));                                                               \
		asm volatile("%0 ^= %1" : "+r"(x) : "r"(any));                                                               \
		asm volatile("%0 &= " #mask : "+r"(x));                                                                      \
	} while (0)

#include "auth.h"

/* Results of the rules for one packet so far. */
struct judgement {
	klais_found verdict;
	__u64 monitor; /* klais_config.monitor */
};

/* Applies a rule's finding: 1 when the packet must be dropped. Of monitored findings the first is kept. */
KLAIS_INLINE int drops(struct judgement *judgement, klais_found found, __u64 monitor_bit)
{
	if (found == KLAIS_PASS)
		return 0;
	if (!(judgement->monitor & monitor_bit)) {
		judgement->verdict = found;
		return 1;
	}
	if (judgement->verdict == KLAIS_PASS)
		judgement->verdict = found | KLAIS_WOULD;
	return 0;
}

/* The controller's set-points until its heartbeat expires, else the limits given at load. */
KLAIS_INLINE const struct klais_limits *limits_in_force(const struct klais_config *config, __u64 now_ns)
{
	__u64 set_at_ns = klais_once(config->set_at_ns);
	__u32 slot = klais_once(config->load_slot);

	if (set_at_ns && now_ns < set_at_ns + klais_once(config->heartbeat_ns))
		slot = klais_once(config->set_slot);
	return &config->slots[slot & (KLAIS_SLOTS - 1)];
}

/* Whether devices had a limit at load: the best guess, without reading the clock, whether the table is needed. */
KLAIS_INLINE int has_device_limit(const struct klais_config *config)
{
	return config->slots[klais_once(config->load_slot) & (KLAIS_SLOTS - 1)].device.cap_units != 0;
}

KLAIS_INLINE klais_found take_global(const struct klais_limit *limit, __u64 now_ns)
{
	struct klais_bucket *bucket = KLAIS_VALUE(bucket);

	if (!limit->cap_units)
		return KLAIS_PASS;
	return klais_take(bucket, limit, KLAIS_GLOBAL_COST, now_ns) ? KLAIS_PASS : KLAIS_GLOBAL_RATE;
}

#include "source_rules.h"

/* Block list, allow list, device bucket, global bucket: 1 when the packet must be dropped. */
KLAIS_INLINE int drops_by_device(struct judgement *judgement, const struct klais_config *config, struct klais_id id,
				struct klais_place place, __u64 now_ns)
{
	const struct klais_limits *limits = limits_in_force(config, now_ns);
	const struct klais_limit *limit = &limits->device;
	struct klais_device device = {id, klais_key(KLAIS_VALUE(spread), id)};
	struct klais_rule *rule = klais_is_marked(KLAIS_VALUE(marks), device.key) ? klais_lookup(rules, &id) : 0;
	klais_found found = KLAIS_PASS;

	if (rule) {
		if (now_ns < rule->allow_until_ns)
			return 0;
		if (now_ns < rule->block_until_ns && drops(judgement, KLAIS_BLOCKED, KLAIS_MONITOR_BLOCK)) {
			__sync_fetch_and_add(&rule->dropped, 1); /* CPUs share the rule; only blocked packets pay for it */
			return 1;
		}
		if (rule->limit.cap_units)
			limit = &rule->limit;
	}
	if (limit->cap_units)
		found = klais_take_device(KLAIS_VALUE(spread), place, &device, limit, now_ns);
	return drops(judgement, found, KLAIS_MONITOR_DEVICE_RATE) ||
	       drops(judgement, take_global(&limits->global, now_ns), KLAIS_MONITOR_GLOBAL_RATE);
}

/* The source as in KFB1: IPv6 or v4-mapped address, port. 0 when it is not in the packet (never, after parsing). */
KLAIS_INLINE int fill_source(struct klais_slot *slot, const __u8 *data, const void *data_end,
		const struct klais_packet *packet)
{
	__u16 *halves = (__u16 *)slot->source; /* its offset is a multiple of 2 but not of 4 */
	const __u8 *udp = data + packet->udp;
	struct klais_address from;
	int i;

	if (udp + KLAIS_UDP_BYTES > (const __u8 *)data_end || !klais_read_source(data + klais_ip_at(packet), data_end, &from))
		return 0;
#pragma unroll
	for (i = 0; i < 8; i++)
		halves[i] = from.halves[i];
	halves[8] = klais_read16(udp);
	return 1;
}

/* Copies the frame into a slot of the ring: the packet ends here. */
KLAIS_INLINE int to_ring(struct xdp_md *ctx, const struct klais_packet *packet, __u64 now_ns,
		struct judgement *judgement)
{
	const __u8 *data = (const __u8 *)(long)ctx->data;
	const void *data_end = (const void *)(long)ctx->data_end;
	__u64 length = packet->length;
	struct klais_slot *slot;

	if (length > KLAIS_SLOT_FRAME_BYTES) { /* the reader of the ring also has a UDP socket */
		if (judgement->verdict == KLAIS_PASS)
			judgement->verdict = KLAIS_TOO_LONG;
		return XDP_PASS;
	}
	slot = bpf_ringbuf_reserve((void *)KLAIS_MAP(ring), sizeof(*slot), 0);
	if (!slot) {
		judgement->verdict = KLAIS_RING_FULL;
		return XDP_DROP;
	}
	slot->time_ns = now_ns;
	slot->length = length;
	slot->queue = ctx->rx_queue_index;
	if (!fill_source(slot, data, data_end, packet)) {
		bpf_ringbuf_discard(slot, 0);
		return XDP_PASS;
	}
	klais_read_kernel(slot->frame, length, data + packet->udp + KLAIS_UDP_BYTES);
	bpf_ringbuf_submit(slot, 0);
	return XDP_DROP;
}

/* The action for an accepted frame. The first of several fragments must reach the stack, which reassembles them. */
KLAIS_INLINE int accept(struct xdp_md *ctx, const struct klais_config *config,
		const struct klais_packet *packet, __u64 now_ns,
			struct judgement *judgement)
{
	__u32 accept = klais_once(config->accept), ifindex = klais_once(config->accept_ifindex);

	if (accept == KLAIS_ACCEPT_PASS || klais_is_fragment(packet) || (ifindex && ifindex != ctx->ingress_ifindex))
		return XDP_PASS;
	if (accept == KLAIS_ACCEPT_XSK)
		return bpf_redirect_map((void *)KLAIS_MAP(xsks), ctx->rx_queue_index, XDP_PASS);
	return to_ring(ctx, packet, now_ns, judgement);
}

/*
 * The start of struct xdp_buff, identical in each kernel since 5.8. The loader compares it with the kernel's own
 * types.
 */
struct buff_head {
	__u64 data, data_end, data_meta, data_hard_start, rxq, txq;
	__u32 frame_sz;
};

/* The start of struct skb_shared_info, checked in the same way. */
struct shared_head {
	__u8 flags, meta_len, nr_frags, tx_flags;
	__u16 gso_size, gso_segs;
};

KLAIS_INLINE int is_generic(const struct klais_config *config, __u32 ifindex)
{
	int i;

#pragma unroll
	for (i = 0; i < KLAIS_GENERIC; i++) {
		if (klais_once(config->generic[i]) == ifindex)
			return 1;
		if (!klais_once(config->generic[i]))
			return 0;
	}
	return 0;
}

/*
 * Whether the packet contains several datagrams (UDP_SEGMENT of a sender on this host, GRO), which the stack splits
 * later. A driver delivers single packets. In generic mode the filter gets socket buffers, whose gso_size shows it.
 * That field is beyond the packet's buffer, where a program can read it only as kernel memory.
 */
KLAIS_INLINE int is_aggregate(struct xdp_md *ctx, const struct klais_config *config)
{
	struct shared_head shared = {};
	struct buff_head buff = {};
	__u32 skb_tail = klais_once(config->skb_tail);

	if (!skb_tail || !is_generic(config, ctx->ingress_ifindex))
		return 0;
	if (klais_read_kernel(&buff, sizeof(buff), ctx))
		return 0;
	if (klais_read_kernel(&shared, sizeof(shared), (void *)(buff.data_hard_start + buff.frame_sz - skb_tail)))
		return 0;
	return shared.gso_size != 0;
}

/* Parsing, length and magic: most unwanted packets end here. */
KLAIS_INLINE klais_found find_frame(const void *data, const void *data_end, struct klais_packet *packet)
{
	struct klais_view view = klais_view(data, data_end, KLAIS_VALUE(ports));
	klais_found found = klais_parse(&view, packet);

	if (found != KLAIS_PASS)
		return found;
	return klais_check_magic((const __u8 *)data + packet->udp + KLAIS_UDP_BYTES, data_end, packet->length,
				 KLAIS_VALUE(auth));
}

/* Applies the verdict for the tag: 1 when the packet must be dropped. */
KLAIS_INLINE int drops_by_tag(struct judgement *judgement, klais_found tag, __u64 now_ns)
{
	struct klais_auth *auth = KLAIS_VALUE(auth);

	if (tag == KLAIS_UNVERIFIED && klais_take(&auth->bucket, &auth->unverified, KLAIS_GLOBAL_COST, now_ns))
		return 0;
	return drops(judgement, tag, KLAIS_MONITOR_AUTH);
}

/* Source, device_id, tag, rules and buckets, then the action for the frame. */
KLAIS_INLINE int judge(struct xdp_md *ctx, struct klais_packet *packet, struct judgement *judgement)
{
	const __u8 *data, *data_end, *frame;
	const struct klais_config *config = KLAIS_VALUE(config);
	__u32 source_rules = klais_once(config->source_rules);
	__u64 any, has_device = judgement->verdict == KLAIS_PASS, now_ns;
	klais_found found = KLAIS_PASS, tag = KLAIS_PASS;
	struct klais_place place = {};
	struct klais_id id = {};

	KLAIS_OPAQUE(ctx); /* new pointers: for the old ones the verifier tracks how far each path has read */
	data = (const __u8 *)(long)ctx->data;
	data_end = (const __u8 *)(long)ctx->data_end;
	any = data_end - data;
	FORGET(packet->udp, 0x3FFF, any);
	FORGET(packet->ip, 0x203F, any);
	FORGET(packet->length, 0xFFFF, any);
	if (has_device) {
		frame = data + packet->udp + KLAIS_UDP_BYTES;
		if (frame + KLAIS_HEADER_BYTES > data_end)
			return XDP_PASS; /* never: the magic was read. The verifier has forgotten that */
		id = klais_read_id(frame);
		tag = klais_find_tag(KLAIS_VALUE(auth), packet, frame, data_end, id, any);
		FORGET(tag, 0x1F, any);
		place = klais_place(KLAIS_VALUE(spread), id, 0);
		if (has_device_limit(config))
			klais_prefetch_set(&place);
	}
	now_ns = bpf_ktime_get_ns();
	if (source_rules && drops_by_source(judgement, config, source_rules, data + klais_ip_at(packet), data_end, now_ns))
		return XDP_DROP;
	FORGET(judgement->verdict, 0x3F, any);
	if (has_device) { /* otherwise the magic is only monitored */
		found = klais_is_good_id(id) ? KLAIS_PASS : KLAIS_BAD_DEVICE_ID;
		if (drops(judgement, found, KLAIS_MONITOR_MAGIC))
			return XDP_DROP;
		if (found == KLAIS_PASS && tag != KLAIS_PASS && drops_by_tag(judgement, tag, now_ns))
			return XDP_DROP;
		FORGET(judgement->verdict, 0x3F, any);
		if (found == KLAIS_PASS && drops_by_device(judgement, config, id, place, now_ns))
			return XDP_DROP;
	}
	return accept(ctx, config, packet, now_ns, judgement);
}

/* Packets decided by their headers alone, before any rule: XDP_PASS or XDP_DROP; -1 for all others. */
KLAIS_INLINE int judge_headers(struct judgement *judgement, const struct klais_config *config,
		const struct klais_packet *packet)
{
	klais_found found = judgement->verdict;

	if (found == KLAIS_NOT_OURS)
		return XDP_PASS;
	if (found == KLAIS_UNPARSABLE) {
		judgement->verdict = KLAIS_PASS;
		return drops(judgement, found, KLAIS_MONITOR_HEADERS) ? XDP_DROP : XDP_PASS;
	}
	if ((found == KLAIS_FRAGMENT || klais_is_fragment(packet)) && klais_once(config->drop_fragments)) {
		judgement->verdict = KLAIS_FRAGMENT_DROPPED;
		return XDP_DROP;
	}
	return found == KLAIS_FRAGMENT ? XDP_PASS : -1;
}

int klais_xdp(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data, *data_end = (const void *)(long)ctx->data_end;
	const struct klais_config *config = KLAIS_VALUE(config);
	struct judgement judgement = {.monitor = klais_once(config->monitor)};
	struct klais_packet packet = {};
	__u64 bytes = data_end - data;
	struct klais_count *count;
	klais_found found;
	__u32 key;
	int action;

	stir(ctx);
	judgement.verdict = found = find_frame(data, data_end, &packet);
	action = judge_headers(&judgement, config, &packet);
	if (action >= 0)
		goto out;
	if (klais_once(config->generic[0]) && is_aggregate(ctx, config)) {
		judgement.verdict = KLAIS_AGGREGATED;
		action = XDP_PASS;
		goto out;
	}
	judgement.verdict = KLAIS_PASS;
	action = XDP_DROP;
	if (drops(&judgement, found, KLAIS_MONITOR_MAGIC))
		goto out;
	action = judge(ctx, &packet, &judgement);
out:
	key = judgement.verdict & (KLAIS_VERDICTS - 1);
	count = klais_lookup(counts, &key);
	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return action;
}

/* SPDX-License-Identifier: MIT
 *
 * Rules about the source address: allow list, block list, and a bucket for each prefix.
 */
#ifndef KLAIS_SOURCE_RULES_H
#define KLAIS_SOURCE_RULES_H

/* Takes a frame out of the bucket of its source's prefix. A new bucket starts full. */
KLAIS_INLINE klais_found take_source(const struct klais_config *config, const struct klais_address *from, __u64 now_ns)
{
	const struct klais_limit *limit = &config->source_slots[klais_once(config->source_slot) & (KLAIS_SLOTS - 1)];
	struct klais_address prefix = klais_source_prefix(config, from);
	struct klais_bucket *bucket = klais_lookup(sources, &prefix), first = {.last_ns = now_ns};

	if (!bucket) {
		first.credit_units = klais_once(limit->cap_units) - KLAIS_SOURCE_COST;
		if (!klais_insert(sources, &prefix, &first))
			return KLAIS_PASS;
		bucket = klais_lookup(sources, &prefix); /* another CPU inserted it */
	}
	if (!bucket)
		return KLAIS_PASS; /* no free row: a limit on sources must never cost a source that is within it */
	return klais_take(bucket, limit, KLAIS_SOURCE_COST, now_ns) ? KLAIS_PASS : KLAIS_SOURCE_RATE;
}

/*
 * Block list of the source address: 1 when the packet must be dropped. `allowed` is the prefix_bits of the allow list's
 * entry, if any; the longer of the two prefixes decides, and of equal ones the allow list's.
 */
KLAIS_INLINE int drops_by_source_block(struct judgement *judgement, const struct klais_prefix *key,
				const __u64 *allowed, __u64 now_ns)
{
	struct klais_source_block *block = klais_lookup(src_block, key);

	if (!block || now_ns >= block->until_ns || (allowed && *allowed >= block->prefix_bits))
		return 0;
	if (!drops(judgement, KLAIS_BLOCKED_SOURCE, KLAIS_MONITOR_SOURCE_BLOCK))
		return 0;
	__sync_fetch_and_add(&block->dropped, 1); /* CPUs share the entry; only blocked packets pay for it */
	return 1;
}

/* Allow list, block list and bucket of the source address: 1 when the packet must be dropped. */
KLAIS_INLINE int drops_by_source(struct judgement *judgement, const struct klais_config *config, __u32 rules,
		const __u8 *ip,
				const void *data_end, __u64 now_ns)
{
	klais_found denied = KLAIS_PASS, over = KLAIS_PASS;
	const __u64 *allowed = 0;
	struct klais_address from;
	struct klais_prefix key;

	if (!klais_read_source(ip, data_end, &from))
		return 0;
	key = klais_source_key(&from);
	if (rules & KLAIS_SOURCE_RULE_LIST) {
		allowed = klais_lookup(src_allow, &key);
		if (!allowed)
			denied = KLAIS_SOURCE_DENIED;
	}
	if (drops(judgement, denied, KLAIS_MONITOR_SOURCE_LIST))
		return 1;
	if ((rules & KLAIS_SOURCE_RULE_BLOCK) && drops_by_source_block(judgement, &key, allowed, now_ns))
		return 1;
	if (rules & KLAIS_SOURCE_RULE_RATE)
		over = take_source(config, &from, now_ns);
	return drops(judgement, over, KLAIS_MONITOR_SOURCE_RATE);
}

#endif

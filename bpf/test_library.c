// SPDX-License-Identifier: MIT
/*
 * The filter's parsing and arithmetic as a user-space library, so that tests can compare them with exact models: cc
 * -shared -fPIC -pthread. Also the table of all numbers that Python mirrors.
 */
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "klais.h"

static struct klais_known the_known[1 << KLAIS_KNOWN_BITS];

#define klais_known_at(index) (&the_known[index])
#include "auth.h"
#include "parse.h"
#include "source.h"

static struct klais_set *the_sets;
static struct klais_owners *the_owners;
static __u32 sets_there;

#define klais_set_at(index) ((index) < sets_there ? &the_sets[index] : 0)
#define klais_owners_at(index) ((index) < sets_there ? &the_owners[index] : 0)
#include "table.h"

struct number {
	const char *name;
	unsigned long long value;
};

#define N(name) {#name, (unsigned long long)(name)}
#define SIZE(type) {"sizeof " #type, sizeof(struct klais_##type)}
#define FIELD(type, field) {#type "." #field, offsetof(struct klais_##type, field)}

const struct number klais_numbers[] = {
	N(KLAIS_VERSION), N(KLAIS_PASS), N(KLAIS_NOT_OURS), N(KLAIS_FRAGMENT), N(KLAIS_TOO_SHORT), N(KLAIS_BAD_MAGIC),
	N(KLAIS_BAD_DEVICE_ID), N(KLAIS_BLOCKED), N(KLAIS_DEVICE_RATE), N(KLAIS_GLOBAL_RATE), N(KLAIS_RING_FULL),
	N(KLAIS_TOO_LONG), N(KLAIS_UNPARSABLE), N(KLAIS_SOURCE_DENIED), N(KLAIS_SOURCE_RATE), N(KLAIS_FRAGMENT_DROPPED),
	N(KLAIS_AGGREGATED), N(KLAIS_WOULD), N(KLAIS_WOULD_TOO_SHORT), N(KLAIS_WOULD_BAD_MAGIC), N(KLAIS_WOULD_BAD_DEVICE_ID),
	N(KLAIS_WOULD_BLOCKED), N(KLAIS_WOULD_DEVICE_RATE), N(KLAIS_WOULD_GLOBAL_RATE), N(KLAIS_WOULD_UNPARSABLE),
	N(KLAIS_WOULD_SOURCE_DENIED), N(KLAIS_WOULD_SOURCE_RATE), N(KLAIS_BAD_MAC), N(KLAIS_UNSIGNED),
	N(KLAIS_UNVERIFIED), N(KLAIS_WOULD_BAD_MAC), N(KLAIS_WOULD_UNSIGNED), N(KLAIS_WOULD_UNVERIFIED),
	N(KLAIS_BLOCKED_SOURCE), N(KLAIS_WOULD_BLOCKED_SOURCE), N(KLAIS_MONITOR_SOURCE_BLOCK),
	N(KLAIS_SOURCE_RULE_BLOCK), N(KLAIS_BLOCKED_SOURCES),
	N(KLAIS_MONITOR_AUTH), N(KLAIS_AUTH_KNOW), N(KLAIS_AUTH_CHECK), N(KLAIS_AUTH_REQUIRE), N(KLAIS_GENERATIONS),
	N(KLAIS_MAX_CHECKED), N(KLAIS_KNOWN_BITS), N(KLAIS_SIGNED_MAGIC), N(KLAIS_MAC_BYTES), N(KLAIS_MIN_SIGNED_BYTES),
	N(KLAIS_VERDICTS), N(KLAIS_MONITOR_MAGIC),
	N(KLAIS_MONITOR_BLOCK), N(KLAIS_MONITOR_DEVICE_RATE), N(KLAIS_MONITOR_GLOBAL_RATE), N(KLAIS_MONITOR_HEADERS),
	N(KLAIS_MONITOR_SOURCE_LIST), N(KLAIS_MONITOR_SOURCE_RATE), N(KLAIS_SOURCE_RULE_LIST), N(KLAIS_SOURCE_RULE_RATE),
	N(KLAIS_ACCEPT_PASS), N(KLAIS_ACCEPT_XSK), N(KLAIS_ACCEPT_RING), N(KLAIS_MAGIC), N(KLAIS_ID_OFFSET),
	N(KLAIS_ID_BYTES), N(KLAIS_HEADER_BYTES), N(KLAIS_SLOTS), N(KLAIS_WAYS), N(KLAIS_PLACES), N(KLAIS_PORT_WORDS),
	N(KLAIS_RULES), N(KLAIS_MARK_WORDS), N(KLAIS_SOURCES), N(KLAIS_ALLOWED_SOURCES), N(KLAIS_GENERIC),
	N(KLAIS_MAX_TAGS), N(KLAIS_MAX_EXTENSIONS), N(KLAIS_QUEUES), N(KLAIS_SOURCE_BYTES), N(KLAIS_SLOT_FRAME_BYTES),
	N(KLAIS_ABOUT_BYTES), N(KLAIS_RINGBUF_HEADER_BYTES), N(KLAIS_GLOBAL_COST), N(KLAIS_DEVICE_COST), N(KLAIS_SOURCE_COST),
	N(KLAIS_MAX_CAP), N(KLAIS_FOREVER), N(KLAIS_CLAIMED),
	SIZE(limit), FIELD(limit, rate_units), FIELD(limit, cap_units), FIELD(limit, fill_ns),
	SIZE(limits), FIELD(limits, global), FIELD(limits, device),
	SIZE(address), FIELD(address, words),
	SIZE(prefix), FIELD(prefix, prefix_bits), FIELD(prefix, family), FIELD(prefix, address),
	SIZE(config), FIELD(config, version), FIELD(config, accept), FIELD(config, accept_ifindex), FIELD(config, monitor),
	FIELD(config, load_slot), FIELD(config, set_slot), FIELD(config, set_at_ns), FIELD(config, heartbeat_ns),
	FIELD(config, source_rules), FIELD(config, source_slot), FIELD(config, drop_fragments), FIELD(config, skb_tail),
	FIELD(config, ipv4_mask), FIELD(config, ipv6_mask), FIELD(config, generic), FIELD(config, source_slots),
	FIELD(config, slots),
	SIZE(generation), FIELD(generation, key), FIELD(generation, serial), SIZE(auth), FIELD(auth, mode),
	SIZE(known), FIELD(known, id), FIELD(known, serial), FIELD(known, key),
	FIELD(auth, max_bytes), FIELD(auth, unverified), FIELD(auth, bucket), FIELD(auth, generations),
	SIZE(bucket), FIELD(bucket, credit_units), FIELD(bucket, last_ns),
	SIZE(way), FIELD(way, key), FIELD(way, bucket), SIZE(set), FIELD(set, ways), FIELD(set, passed), FIELD(set, prefetch),
	SIZE(owner), FIELD(owner, id), FIELD(owner, dropped), SIZE(owners), FIELD(owners, ways), FIELD(owners, prefetch),
	FIELD(owners, spare), SIZE(spread), FIELD(spread, multipliers), FIELD(spread, shift),
	SIZE(rule), FIELD(rule, block_until_ns), FIELD(rule, allow_until_ns), FIELD(rule, limit), FIELD(rule, dropped),
	SIZE(source_block), FIELD(source_block, until_ns), FIELD(source_block, prefix_bits), FIELD(source_block, dropped),
	SIZE(count), FIELD(count, packets), FIELD(count, bytes), SIZE(ports), FIELD(ports, bits), SIZE(marks),
			FIELD(marks, bits),
	SIZE(about), FIELD(about, json),
	SIZE(slot), FIELD(slot, time_ns), FIELD(slot, length), FIELD(slot, queue), FIELD(slot, source), FIELD(slot, frame),
	{0, 0},
};

/* A copy of the bytes that ends at an unreadable page: a read beyond the end kills the process. */
static const __u8 *before_the_end(const __u8 *bytes, size_t size)
{
	static __u8 *memory;
	size_t page = sysconf(_SC_PAGESIZE), whole = 64 * page;

	if (!memory) {
		memory = mmap(0, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED || mprotect(memory + whole, page, PROT_NONE))
			return 0;
	}
	if (size > whole)
		return 0;
	return memcpy(memory + whole - size, bytes, size);
}

/* Verdict of parsing and header checks alone (-1: no memory), and the parsed values. */
int klais_test_judge(const __u8 *bytes, size_t size, const struct klais_ports *ports, struct klais_packet *packet,
		     struct klais_id *id)
{
	static const struct klais_auth no_auth;
	const __u8 *data = before_the_end(bytes, size);
	struct klais_view view = klais_view(data, data + size, ports);
	int verdict;

	if (!data)
		return -1;
	verdict = klais_parse(&view, packet);
	if (verdict != KLAIS_PASS)
		return verdict;
	verdict = klais_check_magic(data + packet->udp + KLAIS_UDP_BYTES, data + size, packet->length, &no_auth);
	if (verdict == KLAIS_PASS)
		verdict = klais_check_id(data + packet->udp + KLAIS_UDP_BYTES, id);
	return verdict;
}

/* The verdict for the tag of a signed frame at the end of readable memory. */
int klais_test_check_tag(const struct klais_auth *auth, const __u8 *frame, size_t size)
{
	const __u8 *data = before_the_end(frame, size);

	if (!data || size < KLAIS_MIN_SIGNED_BYTES || size - KLAIS_MAC_BYTES > KLAIS_MAX_CHECKED)
		return -1;
	return klais_check_tag(auth, data, data + size, size - KLAIS_MAC_BYTES, klais_read_id(data), 0);
}

/* The source of a parsed packet: its address, and its prefix. 0 when it is cut off. */
int klais_test_source(const __u8 *ip, size_t size, const struct klais_config *config, struct klais_prefix *key,
		      struct klais_address *prefix)
{
	const __u8 *data = before_the_end(ip, size);
	struct klais_address from;

	if (!data || !klais_read_source(data, data + size, &from))
		return 0;
	*key = klais_source_key(&from);
	*prefix = klais_source_prefix(config, &from);
	return 1;
}

/* The key of 16 bytes of device_id. */
__u64 klais_test_key(const struct klais_spread *spread, const __u8 *id)
{
	__u8 frame[KLAIS_ID_OFFSET + KLAIS_ID_BYTES] = {0};

	memcpy(frame + KLAIS_ID_OFFSET, id, KLAIS_ID_BYTES);
	return klais_key(spread, klais_read_id(frame));
}

int klais_test_is_good_id(const __u8 *id)
{
	__u8 frame[KLAIS_ID_OFFSET + KLAIS_ID_BYTES] = {0};

	memcpy(frame + KLAIS_ID_OFFSET, id, KLAIS_ID_BYTES);
	return klais_is_good_id(klais_read_id(frame));
}

int klais_test_is_marked(const struct klais_marks *marks, __u64 key)
{
	return klais_is_marked(marks, key);
}

int klais_test_take(struct klais_bucket *bucket, const struct klais_limit *limit, __s64 cost, __u64 now_ns)
{
	return klais_take(bucket, limit, cost, now_ns);
}

/* Several threads using one bucket: each takes `asks` times, on a clock that all of them advance. */
struct crowd {
	struct klais_bucket *bucket;
	const struct klais_limit *limit;
	__s64 cost;
	__u64 *clock_ns;
	__u64 step_ns;
	long asks, admitted;
};

static void *one_of_the_crowd(void *argument)
{
	struct crowd *mine = argument;
	long i;

	for (i = 0; i < mine->asks; i++)
		mine->admitted += klais_take(mine->bucket, mine->limit, mine->cost, __sync_add_and_fetch(mine->clock_ns,
				mine->step_ns));
	return 0;
}

/* Frames admitted by all threads together; *clock_ns ends at its start + threads * asks * step_ns. */
long klais_test_crowd(struct klais_bucket *bucket, const struct klais_limit *limit, __s64 cost,
		__u64 *clock_ns, __u64 step_ns,
		      int threads, long asks)
{
	struct crowd crowd[64];
	pthread_t thread[64];
	long admitted = 0;
	int i;

	for (i = 0; i < threads && i < 64; i++) {
		crowd[i] = (struct crowd){bucket, limit, cost, clock_ns, step_ns, asks, 0};
		if (pthread_create(&thread[i], 0, one_of_the_crowd, &crowd[i]))
			return -1;
	}
	for (i = 0; i < threads && i < 64; i++) {
		pthread_join(thread[i], 0);
		admitted += crowd[i].admitted;
	}
	return admitted;
}

/* The table used by the next two functions; the caller owns it. */
void klais_test_table(struct klais_set *sets, struct klais_owners *owners, __u32 count)
{
	the_sets = sets;
	the_owners = owners;
	sets_there = count;
}

static klais_found take_device(const struct klais_spread *spread, struct klais_id id,
		const struct klais_limit *limit, __u64 now_ns)
{
	struct klais_place place = klais_place(spread, id, 0);
	struct klais_device device = {id, klais_key(spread, id)};

	klais_prefetch_set(&place);
	return klais_take_device(spread, place, &device, limit, now_ns);
}

/* The verdict for a frame of a device. */
int klais_test_take_device(const struct klais_spread *spread, const __u8 *id, const struct klais_limit *limit,
		__u64 now_ns)
{
	struct klais_id words;

	memcpy(&words, id, sizeof(words));
	return take_device(spread, words, limit, now_ns);
}

/* A CPU: takes a frame of each of `devices` in turn, `rounds` times, on a clock that all CPUs advance. */
struct rush {
	const struct klais_spread *spread;
	const struct klais_id *ids;
	const struct klais_limit *limit;
	__u64 *clock_ns;
	long devices, rounds;
	long *admitted; /* for each device */
};

static void *one_of_the_rush(void *argument)
{
	struct rush *mine = argument;
	long i, round;
	__u64 now_ns;

	for (round = 0; round < mine->rounds; round++) {
		for (i = 0; i < mine->devices; i++) {
			now_ns = __sync_add_and_fetch(mine->clock_ns, 1);
			if (take_device(mine->spread, mine->ids[i], mine->limit, now_ns) == KLAIS_PASS)
				__sync_fetch_and_add(&mine->admitted[i], 1);
		}
	}
	return 0;
}

/* Several CPUs take frames of the same new devices in the same order; `admitted` counts frames of each. */
int klais_test_rush(const struct klais_spread *spread, const struct klais_id *ids,
		const struct klais_limit *limit, __u64 *clock_ns,
		    long devices, long rounds, int threads, long *admitted)
{
	struct rush rush = {spread, ids, limit, clock_ns, devices, rounds, admitted};
	pthread_t thread[64];
	int i;

	for (i = 0; i < threads && i < 64; i++)
		if (pthread_create(&thread[i], 0, one_of_the_rush, &rush))
			return -1;
	for (i = 0; i < threads && i < 64; i++)
		pthread_join(thread[i], 0);
	return 0;
}

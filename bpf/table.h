/* SPDX-License-Identifier: MIT
 *
 * The table of devices: sets of two ways, each set one cache line, so that a device's key, bucket and count come with one read of memory.
 * A device lies in either of two sets, which two secret multipliers choose (docs/adr/0012-a-table-of-sets.md). Whoever includes this has
 * defined klais_set_at(index) and klais_owners_at(index): pointers into the table, 0 behind its end.
 */
#ifndef KLAIS_TABLE_H
#define KLAIS_TABLE_H

#include "bucket.h"
#include "bytes.h"
#include "device.h"
#include "klais.h"

/* One of the two sets that a key may lie in. */
struct klais_place {
	struct klais_set *set; /* 0: behind the end of the table, which never is */
	__u32 index;
};

/* A key as it stands in a way, where 0 and KLAIS_CLAIMED mean something else. */
KLAIS_INLINE __u64 klais_way_key(__u64 key)
{
	return key + 1 < 2 ? key + 2 : key;
}

/*
 * Multiply-shift (Dietzfelbinger et al. 1997): the chance of two keys to meet is at most 2 in the number of sets, whatever keys are chosen
 * by somebody who does not know the multiplier.
 */
KLAIS_INLINE struct klais_place klais_place(const struct klais_spread *spread, __u64 way_key, int which)
{
	struct klais_place place;

	place.index = way_key * klais_once(spread->multipliers[which]) >> (klais_once(spread->shift) & 63);
	place.set = klais_set_at(place.index);
	return place;
}

/*
 * Has the first set of a key come into this CPU's cache, while the program goes on. BPF has no prefetch. A store is one: nothing waits for
 * it, as everything waits for a load, the clock first of all.
 */
KLAIS_INLINE void klais_call_set(const struct klais_spread *spread, __u64 way_key)
{
	struct klais_place place = klais_place(spread, way_key, 0);

	if (place.set)
		*(volatile __u64 *)&place.set->called = 0;
}

/* The way of a key in its set, or KLAIS_WAYS. */
KLAIS_INLINE __u32 klais_find_way(const struct klais_set *set, __u64 way_key)
{
	if (klais_once(set->ways[0].key) == way_key)
		return 0;
	return klais_once(set->ways[1].key) == way_key ? 1 : KLAIS_WAYS;
}

/* The way whose device was silent longest; an empty one has 0 for its time. */
KLAIS_INLINE __u32 klais_oldest_way(const struct klais_set *set)
{
	return klais_once(set->ways[1].bucket.last_ns) < klais_once(set->ways[0].bucket.last_ns);
}

/*
 * Whether a new device takes the oldest way of its second set, last asked for at second_ns, rather than that of its first: when only the
 * second is empty; or when the first would be forgotten before its bucket is full again, which gives tokens away, and the second is older.
 */
KLAIS_INLINE int klais_prefers_second(__u64 first_ns, __u64 second_ns, __u64 fill_ns, __u64 now_ns)
{
	if (!second_ns)
		return first_ns != 0;
	return second_ns < first_ns && now_ns < first_ns + fill_ns;
}

/* Takes a frame out of the bucket of a device that is in the table. */
KLAIS_INLINE klais_found klais_take_way(const struct klais_place *place, __u32 at, const struct klais_limit *limit, __u64 now_ns)
{
	struct klais_way *way = &place->set->ways[at & 1];
	struct klais_owners *owners;

	if (klais_take(&way->bucket, limit, KLAIS_DEVICE_COST, now_ns)) {
		place->set->passed[at & 1]++;
		return KLAIS_PASS;
	}
	owners = klais_owners_at(place->index);
	if (owners)
		owners->ways[at & 1].dropped++;
	return KLAIS_DEVICE_RATE;
}

/*
 * A new device: the oldest way becomes its own, with a full bucket less the frame that is passing. While it is claimed nobody finds it. A CPU
 * that comes too late lets its frame pass: one a CPU is all that such a race gives away.
 */
KLAIS_INLINE void klais_settle(const struct klais_place *place, __u64 way_key, struct klais_id id, __u64 cap_units, __u64 now_ns)
{
	__u32 at = klais_oldest_way(place->set) & 1;
	struct klais_way *way = &place->set->ways[at];
	struct klais_owners *owners = klais_owners_at(place->index);
	__u64 before = klais_once(way->key);

	if (!owners || before == KLAIS_CLAIMED || klais_swap(&way->key, before, KLAIS_CLAIMED) != before)
		return;
	owners->ways[at].dropped = 0;
	__builtin_memcpy(owners->ways[at].id, &id, sizeof(id));
	way->bucket.credit_units = cap_units - KLAIS_DEVICE_COST;
	way->bucket.last_ns = now_ns;
	place->set->passed[at] = 1;
	klais_swap(&way->key, KLAIS_CLAIMED, way_key); /* seen after all of that, on every architecture */
}

/* Takes a frame of a device out of its bucket; a device that is not in the table begins with a full one. */
KLAIS_INLINE klais_found klais_take_device(const struct klais_spread *spread, __u64 key, struct klais_id id,
					   const struct klais_limit *limit, __u64 now_ns)
{
	__u64 way_key = klais_way_key(key), first_ns, second_ns;
	struct klais_place place = klais_place(spread, way_key, 0), second;
	__u32 at;

	if (!place.set)
		return KLAIS_PASS;
	at = klais_find_way(place.set, way_key);
	if (at == KLAIS_WAYS) {
		second = klais_place(spread, way_key, 1);
		if (!second.set)
			return KLAIS_PASS;
		at = klais_find_way(second.set, way_key);
		if (at == KLAIS_WAYS) {
			first_ns = klais_once(place.set->ways[klais_oldest_way(place.set)].bucket.last_ns);
			second_ns = klais_once(second.set->ways[klais_oldest_way(second.set)].bucket.last_ns);
			if (klais_prefers_second(first_ns, second_ns, klais_once(limit->fill_ns), now_ns))
				place = second;
			klais_settle(&place, way_key, id, klais_once(limit->cap_units), now_ns);
			return KLAIS_PASS;
		}
		place = second;
	}
	return klais_take_way(&place, at, limit, now_ns);
}

#endif

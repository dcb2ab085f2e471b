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
 * A set of a device: multilinear hashing (Carter, Wegman 1979; Lemire, Kaser 2014), by which any two ids meet with a chance of one in the
 * number of sets, whoever chose them without knowing the multipliers. It is at hand long before the key is.
 */
KLAIS_INLINE struct klais_place klais_place(const struct klais_spread *spread, struct klais_id id, int which)
{
	const __u64 *by = spread->multipliers[which];
	__u64 sum = by[0] * (__u32)id.low + by[1] * (id.low >> 32) + by[2] * (__u32)id.high + by[3] * (id.high >> 32);
	struct klais_place place;

	place.index = sum >> (spread->shift & 63);
	place.set = klais_set_at(place.index);
	return place;
}

/*
 * Has a set come into this CPU's cache, while the program goes on. BPF has no prefetch. A store is one: nothing waits for it, as everything
 * waits for a load, the clock first of all.
 */
KLAIS_INLINE void klais_call_set(const struct klais_place *place)
{
	if (place->set)
		*(volatile __u64 *)&place->set->called = 0;
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

/* Whether another CPU is giving a way of this set away, perhaps to the same device, or has just done so. */
KLAIS_INLINE int klais_is_contested(struct klais_set *set, const struct klais_way *ours, __u64 way_key)
{
	__u64 one = klais_once(set->ways[0].key), other = klais_once(set->ways[1].key);

	return (ours != &set->ways[0] && (one == KLAIS_CLAIMED || one == way_key)) ||
	       (ours != &set->ways[1] && (other == KLAIS_CLAIMED || other == way_key));
}

/* A new device gets the oldest way of place: 1, and its first frame has passed; or 0 when another CPU is at work here. */
KLAIS_INLINE int klais_settle(const struct klais_place *place, const struct klais_place *elsewhere, __u64 way_key, struct klais_id id,
			      __u64 cap_units, __u64 now_ns)
{
	__u32 at = klais_oldest_way(place->set) & 1;
	struct klais_way *way = &place->set->ways[at];
	struct klais_owners *owners = klais_owners_at(place->index);
	__u64 before = klais_once(way->key), last_ns = klais_once(way->bucket.last_ns);

	if (!owners || before == KLAIS_CLAIMED || before == way_key || klais_swap(&way->key, before, KLAIS_CLAIMED) != before)
		return 0;
	/* Claim first, look then: of CPUs that see the same new device, one at most goes on, and no device gets two buckets. */
	if (klais_once(way->bucket.last_ns) != last_ns || klais_is_contested(place->set, way, way_key) ||
	    klais_is_contested(elsewhere->set, way, way_key)) {
		klais_swap(&way->key, KLAIS_CLAIMED, before);
		return 0;
	}
	owners->ways[at].dropped = 0;
	__builtin_memcpy(owners->ways[at].id, &id, sizeof(id));
	way->bucket.credit_units = cap_units - KLAIS_DEVICE_COST;
	way->bucket.last_ns = now_ns;
	place->set->passed[at] = 1;
	klais_swap(&way->key, KLAIS_CLAIMED, way_key); /* seen after all of that, on every architecture */
	return 1;
}

/* A device that is in neither of its sets. */
KLAIS_INLINE klais_found klais_take_new(const struct klais_place *first, const struct klais_place *second, __u64 way_key,
					struct klais_id id, const struct klais_limit *limit, __u64 now_ns)
{
	__u64 first_ns = klais_once(first->set->ways[klais_oldest_way(first->set)].bucket.last_ns);
	__u64 second_ns = klais_once(second->set->ways[klais_oldest_way(second->set)].bucket.last_ns);
	__u64 cap_units = klais_once(limit->cap_units);
	int settled;

	if (klais_prefers_second(first_ns, second_ns, klais_once(limit->fill_ns), now_ns))
		settled = klais_settle(second, first, way_key, id, cap_units, now_ns);
	else
		settled = klais_settle(first, second, way_key, id, cap_units, now_ns);
	return settled ? KLAIS_PASS : KLAIS_DEVICE_RATE;
}

/* Takes a frame of a device, whose first place is given, out of its bucket; one that is not in the table begins with a full one. */
KLAIS_INLINE klais_found klais_take_device(const struct klais_spread *spread, struct klais_place place, __u64 key, struct klais_id id,
					   const struct klais_limit *limit, __u64 now_ns)
{
	__u64 way_key = klais_way_key(key);
	struct klais_place second;
	__u32 at;

	if (!place.set)
		return KLAIS_PASS;
	at = klais_find_way(place.set, way_key);
	if (at == KLAIS_WAYS) {
		second = klais_place(spread, id, 1);
		if (!second.set)
			return KLAIS_PASS;
		at = klais_find_way(second.set, way_key);
		if (at == KLAIS_WAYS)
			return klais_take_new(&place, &second, way_key, id, limit, now_ns);
		place = second;
	}
	return klais_take_way(&place, at, limit, now_ns);
}

#endif

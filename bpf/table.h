/* SPDX-License-Identifier: MIT
 *
 * The table of devices: sets of two ways. A set is one cache line with keys, buckets and counts; a second one
 * has the ids. A device is in one of two sets, which secret multipliers choose
 * (docs/adr/0012-keep-devices-in-cache-line-sets.md). Before including this, define klais_set_at(index) and
 * klais_owners_at(index): pointers into the table, 0 beyond its end.
 */
#ifndef KLAIS_TABLE_H
#define KLAIS_TABLE_H

#include "bucket.h"
#include "bytes.h"
#include "device.h"
#include "klais.h"

/* One of the two candidate sets of a device, with the ids of its ways. */
struct klais_place {
	struct klais_set *set; /* 0: beyond the end of the table, which never happens */
	struct klais_owners *owners;
};

/* A device: its id, and its key in this table. */
struct klais_device {
	struct klais_id id;
	__u64 key;
};

/*
 * Multilinear hashing of the id (Carter, Wegman 1979; Lemire, Kaser 2014): two ids that were chosen without knowledge
 * of the multipliers collide in the upper bits with the probability of random numbers. The four multiplications are
 * independent of each other.
 */
KLAIS_INLINE __u64 klais_hash(const struct klais_spread *spread, struct klais_id id, int which)
{
	const __u64 *by = spread->multipliers[which];

	return by[0] * (__u32)id.low + by[1] * (id.low >> 32) + by[2] * (__u32)id.high + by[3] * (id.high >> 32);
}

/* The key is the hash that chooses the second set. 0 and KLAIS_CLAIMED are reserved values in a way. */
KLAIS_INLINE __u64 klais_key(const struct klais_spread *spread, struct klais_id id)
{
	__u64 key = klais_hash(spread, id, 1);

	return key + 1 < 2 ? key + 2 : key;
}

KLAIS_INLINE struct klais_place klais_place(const struct klais_spread *spread, struct klais_id id, int which)
{
	__u32 index = klais_hash(spread, id, which) >> (spread->shift & 63);
	struct klais_place place = {klais_set_at(index), klais_owners_at(index)};

	return place;
}

/*
 * Starts loading a set and its owners into this CPU's cache while the program continues. BPF has no prefetch
 * instruction. A store has the same effect: nothing waits for it, while even reading the clock waits for a load.
 */
KLAIS_INLINE void klais_prefetch_set(const struct klais_place *place)
{
	if (place->set && place->owners) {
		*(volatile __u64 *)&place->set->prefetch = 0;
		*(volatile __u64 *)&place->owners->prefetch = 0;
	}
}

/* Whether a way belongs to the device: the key is a fast filter, the id decides. */
KLAIS_INLINE int klais_is_way_of(const struct klais_place *place, __u32 at, const struct klais_device *device)
{
	return klais_once(place->set->ways[at].key) == device->key &&
		       klais_is_same_id(&place->owners->ways[at].id, device->id);
}

/* The way of a device in its set, or KLAIS_WAYS. */
KLAIS_INLINE __u32 klais_find_way(const struct klais_place *place, const struct klais_device *device)
{
	if (klais_is_way_of(place, 0, device))
		return 0;
	return klais_is_way_of(place, 1, device) ? 1 : KLAIS_WAYS;
}

/* The way whose device was silent longest; the time of an empty one is 0. */
KLAIS_INLINE __u32 klais_oldest_way(const struct klais_set *set)
{
	return klais_once(set->ways[1].bucket.last_ns) < klais_once(set->ways[0].bucket.last_ns);
}

/*
 * Whether a new device gets the oldest way of its second set, last used at second_ns, instead of that of its first
 * set: if only the second is empty, or if the device in the first would be evicted before its bucket is full again,
 * which gives tokens away, and the second is older.
 */
KLAIS_INLINE int klais_prefers_second(__u64 first_ns, __u64 second_ns, __u64 fill_ns, __u64 now_ns)
{
	if (!second_ns)
		return first_ns != 0;
	return second_ns < first_ns && now_ns < first_ns + fill_ns;
}

/* Takes a frame out of the bucket of a device in the table. */
KLAIS_INLINE klais_found klais_take_way(const struct klais_place *place, __u32 at,
		const struct klais_limit *limit, __u64 now_ns)
{
	struct klais_way *way = &place->set->ways[at & 1];

	if (klais_take(&way->bucket, limit, KLAIS_DEVICE_COST, now_ns)) {
		place->set->passed[at & 1]++;
		return KLAIS_PASS;
	}
	place->owners->ways[at & 1].dropped++;
	return KLAIS_DEVICE_RATE;
}

/*
 * Whether another CPU is assigning way `at`, perhaps to this device, or has just assigned it to this device. The
 * compare-and-swap changes nothing: it orders the read of the id after that of the key on every architecture.
 */
KLAIS_INLINE int klais_is_taken(const struct klais_place *place, __u32 at, const struct klais_device *device)
{
	struct klais_way *way = &place->set->ways[at];
	__u64 key = klais_once(way->key);

	if (key == KLAIS_CLAIMED)
		return 1;
	return key == device->key && klais_swap(&way->key, key, key) == key &&
	       klais_is_same_id(&place->owners->ways[at].id, device->id);
}

KLAIS_INLINE int klais_is_contested(const struct klais_place *place, const struct klais_way *ours,
				    const struct klais_device *device)
{
	return (ours != &place->set->ways[0] && klais_is_taken(place, 0, device)) ||
	       (ours != &place->set->ways[1] && klais_is_taken(place, 1, device));
}

/*
 * Assigns the oldest way of a place to a new device: returns 1 if its first frame has passed, 0 when another CPU is
 * changing the set.
 */
KLAIS_INLINE int klais_give_way(const struct klais_place *place, const struct klais_place *elsewhere,
			      const struct klais_device *device, __u64 cap_units, __u64 now_ns)
{
	__u32 at = klais_oldest_way(place->set) & 1;
	struct klais_way *way = &place->set->ways[at];
	struct klais_owner *owner = &place->owners->ways[at];
	__u64 before = klais_once(way->key), last_ns = klais_once(way->bucket.last_ns);

	if (klais_is_taken(place, at, device) || klais_swap(&way->key, before, KLAIS_CLAIMED) != before)
		return 0;
	/* Claim, then check: of the CPUs that see the same new device at most one continues, so it gets one bucket. */
	if (klais_once(way->bucket.last_ns) != last_ns || klais_is_contested(place, way, device) ||
	    klais_is_contested(elsewhere, way, device)) {
		klais_swap(&way->key, KLAIS_CLAIMED, before);
		return 0;
	}
	owner->dropped = 0;
	owner->id = device->id;
	way->bucket.credit_units = cap_units - KLAIS_DEVICE_COST;
	way->bucket.last_ns = now_ns;
	place->set->passed[at] = 1;
	klais_swap(&way->key, KLAIS_CLAIMED, device->key); /* visible after all of that, on every architecture */
	return 1;
}

/* A device that is in neither of its sets. */
KLAIS_INLINE klais_found klais_take_new(const struct klais_place *first, const struct klais_place *second,
					const struct klais_device *device, const struct klais_limit *limit, __u64 now_ns)
{
	__u64 first_ns = klais_once(first->set->ways[klais_oldest_way(first->set)].bucket.last_ns);
	__u64 second_ns = klais_once(second->set->ways[klais_oldest_way(second->set)].bucket.last_ns);
	__u64 cap_units = klais_once(limit->cap_units);
	int settled;

	if (klais_prefers_second(first_ns, second_ns, klais_once(limit->fill_ns), now_ns))
		settled = klais_give_way(second, first, device, cap_units, now_ns);
	else
		settled = klais_give_way(first, second, device, cap_units, now_ns);
	return settled ? KLAIS_PASS : KLAIS_DEVICE_RATE;
}

/* Takes a frame out of the bucket of a device, given its first place. A new device starts with a full bucket. */
KLAIS_INLINE klais_found klais_take_device(const struct klais_spread *spread, struct klais_place place,
					   const struct klais_device *device, const struct klais_limit *limit, __u64 now_ns)
{
	struct klais_place second;
	__u32 at;

	if (!place.set || !place.owners)
		return KLAIS_PASS;
	at = klais_find_way(&place, device);
	if (at == KLAIS_WAYS) {
		second = klais_place(spread, device->id, 1);
		if (!second.set || !second.owners)
			return KLAIS_PASS;
		at = klais_find_way(&second, device);
		if (at == KLAIS_WAYS)
			return klais_take_new(&place, &second, device, limit, now_ns);
		place = second;
	}
	return klais_take_way(&place, at, limit, now_ns);
}

#endif

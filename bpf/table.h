/* SPDX-License-Identifier: MIT
 *
 * The table of devices: sets of two ways. A set is one cache line with keys, buckets and counts; beside it lies one
 * with the ids. A device lies in either of two sets, which secret multipliers choose
 * (docs/adr/0012-keep-devices-in-cache-line-sets.md). Before including this, define klais_set_at(index) and
 * klais_owners_at(index): pointers into the table, 0 past its end.
 */
#ifndef KLAIS_TABLE_H
#define KLAIS_TABLE_H

#include "bucket.h"
#include "bytes.h"
#include "device.h"
#include "klais.h"

/* One of the two sets that a device may lie in, with the ids in it. */
struct klais_place {
	struct klais_set *set; /* 0: past the end of the table, which never happens */
	struct klais_owners *owners;
};

/* A device: its id, and its key in this table. */
struct klais_device {
	struct klais_id id;
	__u64 key;
};

/*
 * Multilinear hashing of the id (Carter, Wegman 1979; Lemire, Kaser 2014): any two ids get the same upper bits with
 * the chance that random numbers have, whoever chose them without knowing the multipliers. Four multiplications that
 * do not wait for each other.
 */
KLAIS_INLINE __u64 klais_hash(const struct klais_spread *spread, struct klais_id id, int which)
{
	const __u64 *by = spread->multipliers[which];

	return by[0] * (__u32)id.low + by[1] * (id.low >> 32) + by[2] * (__u32)id.high + by[3] * (id.high >> 32);
}

/* The key is the hash that chooses the second set. In a way 0 and KLAIS_CLAIMED mean something else. */
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
 * Starts loading a set and its owners into this CPU's cache, while the program goes on. BPF has no prefetch. A store
 * is one: nothing waits for it, as everything waits for a load, the clock first of all.
 */
KLAIS_INLINE void klais_prefetch_set(const struct klais_place *place)
{
	if (place->set && place->owners) {
		*(volatile __u64 *)&place->set->prefetch = 0;
		*(volatile __u64 *)&place->owners->prefetch = 0;
	}
}

/* Whether a way is the device's: the key is a quick answer, the id decides. */
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

/* The way whose device was silent longest; an empty one has 0 for its time. */
KLAIS_INLINE __u32 klais_oldest_way(const struct klais_set *set)
{
	return klais_once(set->ways[1].bucket.last_ns) < klais_once(set->ways[0].bucket.last_ns);
}

/*
 * Whether a new device takes the oldest way of its second set, last asked for at second_ns, rather than that of its
 * first: when only the second is empty; or when the first would be forgotten before its bucket is full again, which
 * gives tokens away, and the second is older.
 */
KLAIS_INLINE int klais_prefers_second(__u64 first_ns, __u64 second_ns, __u64 fill_ns, __u64 now_ns)
{
	if (!second_ns)
		return first_ns != 0;
	return second_ns < first_ns && now_ns < first_ns + fill_ns;
}

/* Takes a frame out of the bucket of a device that is in the table. */
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
 * Whether another CPU is giving way `at` to somebody, perhaps to this device, or has just given it to this device.
 * The compare-and-swap changes nothing: it keeps the read of the id behind that of the key on every architecture.
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
 * Gives a new device the oldest way of a place: 1, and its first frame has passed; 0 when another CPU works on the
 * set.
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
	/* Claim, then check: of the CPUs that see the same new device at most one goes on, so no device gets two buckets. */
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
	klais_swap(&way->key, KLAIS_CLAIMED, device->key); /* seen after all of that, on every architecture */
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

/* Takes a frame of a device, whose first place is given, out of its bucket. A new device starts with a full bucket. */
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

/* SPDX-License-Identifier: MIT
 *
 * Token buckets in integers: a bucket earns rate_units of credit a ns up to cap_units, a frame costs a fixed number
 * of units. There is no division and no rounding, so the result does not drift and does not depend on how often a
 * bucket is used. Time is an argument.
 *
 * CPUs share a bucket by two compare-and-swaps (docs/adr/0010-buckets-by-compare-and-swap.md): the CPU that advances
 * last_ns owns the credit of that time span, and adds it together with what it takes out.
 */
#ifndef KLAIS_BUCKET_H
#define KLAIS_BUCKET_H

#include "bytes.h"
#include "klais.h"

#define KLAIS_TRIES 4

KLAIS_INLINE __u64 klais_swap(__u64 *word, __u64 expected, __u64 wanted)
{
	return __sync_val_compare_and_swap(word, expected, wanted);
}

/* Credit of `elapsed_ns`, at most the cap. Cannot overflow: below fill_ns the product is below the cap. */
KLAIS_INLINE __s64 klais_earned(const struct klais_limit *limit, __u64 elapsed_ns)
{
	if (elapsed_ns >= klais_once(limit->fill_ns))
		return klais_once(limit->cap_units);
	return elapsed_ns * klais_once(limit->rate_units);
}

/*
 * Advances the bucket's time to now_ns. Returns the credit earned, or 0 when another CPU took that time span. A clock
 * that went back by up to 10 s earns nothing until it catches up; one that was set back further is followed.
 */
KLAIS_INLINE __s64 klais_claim(struct klais_bucket *bucket, const struct klais_limit *limit, __u64 now_ns)
{
	__u64 last_ns = klais_once(bucket->last_ns);

	if (now_ns > last_ns)
		return klais_swap(&bucket->last_ns, last_ns, now_ns) == last_ns ? klais_earned(limit, now_ns - last_ns) : 0;
	if (last_ns - now_ns > KLAIS_MAX_BACKWARDS_NS)
		klais_swap(&bucket->last_ns, last_ns, now_ns);
	return 0;
}

/* Takes `cost` out of the bucket at now_ns: returns 1, or 0 when it holds less. */
KLAIS_INLINE int klais_take(struct klais_bucket *bucket, const struct klais_limit *limit, __s64 cost, __u64 now_ns)
{
	__s64 cap = klais_once(limit->cap_units), earned = klais_claim(bucket, limit, now_ns), held, credit;
	int i;

#pragma unroll
	for (i = 0; i < KLAIS_TRIES; i++) {
		held = klais_once(bucket->credit_units);
		credit = held + earned;
		if (credit > cap)
			credit = cap;
		if (credit < cost) {
			if (credit == held || klais_swap((__u64 *)&bucket->credit_units, held, credit) == (__u64)held)
				return 0;
		} else if (klais_swap((__u64 *)&bucket->credit_units, held, credit - cost) == (__u64)held) {
			return 1;
		}
	}
	/* Other CPUs use this bucket too. Additions cannot fail; the next successful swap applies the cap. */
	credit = __sync_fetch_and_add(&bucket->credit_units, earned - cost) + earned;
	if (credit > cap)
		__sync_fetch_and_add(&bucket->credit_units, cap - credit);
	if (credit >= cost)
		return 1;
	__sync_fetch_and_add(&bucket->credit_units, cost);
	return 0;
}

#endif

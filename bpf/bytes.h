/* SPDX-License-Identifier: MIT
 *
 * Reads of packet bytes. In the kernel, 16-bit reads are at offsets divisible by 2 and 32-bit reads at offsets
 * divisible by 4: the sizes of the Ethernet, tag, IP and UDP headers ensure that. User space reads copies at any
 * address.
 */
#ifndef KLAIS_BYTES_H
#define KLAIS_BYTES_H

#include <linux/types.h>

#define KLAIS_INLINE static inline __attribute__((always_inline))

#ifdef KLAIS_KERNEL
#define klais_read16(p) (*(const __u16 *)(p))
#define klais_read32(p) (*(const __u32 *)(p))
#define klais_read64(p) (*(const __u64 *)(p)) /* of a frame, at an even offset: x86 and arm64 support that */
#else
KLAIS_INLINE __u16 klais_read16(const void *p)
{
	__u16 value;

	__builtin_memcpy(&value, p, sizeof(value));
	return value;
}

KLAIS_INLINE __u32 klais_read32(const void *p)
{
	__u32 value;

	__builtin_memcpy(&value, p, sizeof(value));
	return value;
}

KLAIS_INLINE __u64 klais_read64(const void *p)
{
	__u64 value;

	__builtin_memcpy(&value, p, sizeof(value));
	return value;
}
#endif

/* Converts a 16-bit number between network byte order and the byte order of this CPU, which is little-endian. */
#define klais_be16(value) ((__u16)__builtin_bswap16((__u16)(value)))

/* An enum klais_verdict as a 64-bit number: the compiler would clear the upper half of a 32-bit one repeatedly. */
typedef __u64 klais_found;

/* Hides the value of a variable from the compiler. */
#define KLAIS_OPAQUE(x) asm volatile("" : "+r"(x))

/* Reads a word that another CPU may write, exactly once: the compiler must not read it again. */
#define klais_once(x) (*(const volatile __typeof__(x) *)&(x))

#endif

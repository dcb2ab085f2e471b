/* SPDX-License-Identifier: MIT
 *
 * For benchmarks only: before the packet is judged, replaces its device by one of KLAIS_STIR_DEVICES (a power of two),
 * chosen pseudo-randomly. The packet is a frame after Ethernet, IPv4 without options, and UDP.
 */
#ifndef KLAIS_STIR_H
#define KLAIS_STIR_H

#include "klais.h"
#include "maps.h"

#define KLAIS_STIR_AT 52 /* the second half of device_id */

static inline __attribute__((always_inline)) void stir(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u64 *state = KLAIS_VALUE(about), number, text = 0x6161616161616161ULL; /* "aaaaaaaa" */
	int i;

	if (data + KLAIS_STIR_AT + 8 > (__u8 *)(long)ctx->data_end)
		return;
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL; /* Knuth's MMIX */
	number = (*state >> 33) & (KLAIS_STIR_DEVICES - 1);
#pragma unroll
	for (i = 0; i < 6; i++)
		text += ((number >> (4 * i)) & 15) << (8 * i);
	*(__u32 *)(data + KLAIS_STIR_AT) = text;
	*(__u32 *)(data + KLAIS_STIR_AT + 4) = text >> 32;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The frame's 22 header bytes: magic and device_id. The verdicts are those of check_headers in
 * klais/core/wire/frame.py.
 */
#ifndef KLAIS_DEVICE_H
#define KLAIS_DEVICE_H

#include "bytes.h"
#include "klais.h"

#define KLAIS_HIGH_BITS 0x8080808080808080ULL

KLAIS_INLINE int klais_is_same_id(const struct klais_id *one, struct klais_id other)
{
	return !((klais_once(one->low) ^ other.low) | (klais_once(one->high) ^ other.high));
}

/* Whether there may be a rule for the device with this key; 0 = certainly not. */
KLAIS_INLINE int klais_is_marked(const struct klais_marks *marks, __u64 key)
{
	return (klais_once(marks->bits[key >> 52]) >> ((key >> 46) & 63)) & 1;
}

/* 0x80 in each byte of `word` that is NUL (Hacker's Delight 6-1: exact in every byte). */
KLAIS_INLINE __u64 klais_nul_bytes(__u64 word)
{
	return ~(((word & ~KLAIS_HIGH_BITS) + ~KLAIS_HIGH_BITS) | word | ~KLAIS_HIGH_BITS);
}

/* Whether all bytes of `word` after its first NUL are NUL. */
KLAIS_INLINE int klais_is_padded(__u64 word)
{
	__u64 nul = klais_nul_bytes(word);

	return ((nul | ((nul & -nul) - 1)) & KLAIS_HIGH_BITS) == KLAIS_HIGH_BITS;
}

/* Classes of eight UTF-8 bytes (RFC 3629, table 3-7 of Unicode): 0x80 in each byte of the class. */
struct klais_utf8 {
	__u64 follows;		       /* a continuation byte */
	__u64 one, two, three;	       /* a lead byte followed by at least so many bytes */
	__u64 bad;		       /* invalid in any text: C0, C1, F5 to FF */
	/* lead bytes that allow only A0 to BF, 80 to 9F next: no overlong forms, no surrogates */
	__u64 after_e0, after_ed;
	__u64 after_f0, after_f4;      /* 90 to BF, 80 to 8F: no overlong forms, nothing above U+10FFFF */
	__u64 from_a0, from_90;	       /* a continuation byte of at least that value */
};

#define KLAIS_BIT(word, n) (((word) << (7 - (n))) & KLAIS_HIGH_BITS)

KLAIS_INLINE struct klais_utf8 klais_utf8(__u64 word)
{
	__u64 b0 = KLAIS_BIT(word, 0), b1 = KLAIS_BIT(word, 1), b2 = KLAIS_BIT(word, 2), b3 = KLAIS_BIT(word, 3);
	__u64 b4 = KLAIS_BIT(word, 4), b5 = KLAIS_BIT(word, 5), b6 = KLAIS_BIT(word, 6), lead = KLAIS_BIT(word, 7) & b6;
	__u64 two = lead & b5, three = two & b4;

	return (struct klais_utf8){
		.follows = KLAIS_BIT(word, 7) & ~b6,
		.one = lead,
		.two = two,
		.three = three,
		.bad = (lead & ~(b5 | b4 | b3 | b2 | b1)) | (three & (b3 | (b2 & (b1 | b0)))),
		.after_e0 = two & ~(b4 | b3 | b2 | b1 | b0),
		.after_ed = two & ~b4 & b3 & b2 & ~b1 & b0,
		.after_f0 = three & ~(b2 | b1 | b0),
		.after_f4 = three & b2,
		.from_a0 = b5,
		.from_90 = b5 | b4,
	};
}

/* A word of marks shifted by some bytes; the end of the previous word is shifted in. */
#define KLAIS_MOVED(bytes, before, word) (((word) << (8 * (bytes))) | ((before) >> (64 - 8 * (bytes))))

/* The errors in one word that follows the word `before`: 0 when there are none. */
KLAIS_INLINE __u64 klais_utf8_wrong(const struct klais_utf8 *before, const struct klais_utf8 *word)
{
	__u64 due = KLAIS_MOVED(1, before->one, word->one) | KLAIS_MOVED(2, before->two, word->two) |
		    KLAIS_MOVED(3, before->three, word->three);

	return word->bad | (due ^ word->follows) | (KLAIS_MOVED(1, before->after_e0, word->after_e0) & ~word->from_a0) |
	       (KLAIS_MOVED(1, before->after_ed, word->after_ed) & word->from_a0) |
	       (KLAIS_MOVED(1, before->after_f0, word->after_f0) & ~word->from_90) |
	       (KLAIS_MOVED(1, before->after_f4, word->after_f4) & word->from_90);
}

/*
 * Whether 16 bytes are well-formed UTF-8, computed in parallel and without a branch. The verifier follows each path
 * through a loop: for a loop over the bytes it took twenty times as long as for the rest of the program.
 */
KLAIS_INLINE int klais_is_utf8(struct klais_id id)
{
	struct klais_utf8 none = {}, low = klais_utf8(id.low), high = klais_utf8(id.high);

	return !(klais_utf8_wrong(&none, &low) | klais_utf8_wrong(&low, &high) | (high.one >> 56) | (high.two >> 48) |
		 (high.three >> 40));
}

KLAIS_INLINE int klais_is_good_id(struct klais_id id)
{
	if ((id.low & 0xFF) == 0)
		return 0;
	if (klais_nul_bytes(id.low)) {
		if (id.high || !klais_is_padded(id.low))
			return 0;
	} else if (klais_nul_bytes(id.high) && !klais_is_padded(id.high)) {
		return 0;
	}
	return !((id.low | id.high) & KLAIS_HIGH_BITS) || klais_is_utf8(id);
}

/* Reads device_id; the caller has checked that the header is in the packet. */
KLAIS_INLINE struct klais_id klais_read_id(const __u8 *frame)
{
	const __u8 *at = frame + KLAIS_ID_OFFSET;
	struct klais_id id;

	id.low = klais_read32(at) | (__u64)klais_read32(at + 4) << 32;
	id.high = klais_read32(at + 8) | (__u64)klais_read32(at + 12) << 32;
	return id;
}

/*
 * Checks length and magic of a frame of `length` bytes, plain or (where the filter accepts them) signed. klais_parse
 * has checked that its header is in the packet.
 */
KLAIS_INLINE klais_found klais_check_magic(const __u8 *frame, const void *data_end, __u64 length,
					   const struct klais_auth *auth)
{
	__u16 magic;

	if (length < KLAIS_HEADER_BYTES)
		return KLAIS_TOO_SHORT;
	if (frame + KLAIS_HEADER_BYTES > (const __u8 *)data_end)
		return KLAIS_UNPARSABLE; /* never: the verifier cannot deduce that */
	magic = klais_read16(frame);
	if (magic == klais_be16(KLAIS_MAGIC))
		return KLAIS_PASS;
	if (magic != klais_be16(KLAIS_SIGNED_MAGIC) || !klais_once(auth->mode))
		return KLAIS_BAD_MAGIC;
	return length < KLAIS_MIN_SIGNED_BYTES ? KLAIS_TOO_SHORT : KLAIS_PASS;
}

/* Reads and checks device_id of a frame whose header is in the packet. */
KLAIS_INLINE klais_found klais_check_id(const __u8 *frame, struct klais_id *id)
{
	*id = klais_read_id(frame);
	return klais_is_good_id(*id) ? KLAIS_PASS : KLAIS_BAD_DEVICE_ID;
}

#endif

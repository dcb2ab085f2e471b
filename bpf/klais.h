/* SPDX-License-Identifier: MIT
 *
 * Definitions shared by the XDP filter and user space: verdicts, rules, layouts of map values, sizes, map names. This
 * file is their only source. klais/xdp/layout.py mirrors it for numpy, and a test compares the mirror with a table
 * compiled from here. Times are CLOCK_MONOTONIC in ns (bpf_ktime_get_ns).
 */
#ifndef KLAIS_H
#define KLAIS_H

#include <linux/types.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "device ids are read as little-endian words"
#endif

/* Version of all layouts below. Raise it when a value changes its meaning but not its size. */
#define KLAIS_VERSION 7

/* The verdict on a packet. A verdict with KLAIS_WOULD passed only because its rule is in monitor mode. */
enum klais_verdict {
	KLAIS_PASS = 0,	     /* accepted: to the stack, to the XSK or into the ring */
	KLAIS_NOT_OURS = 1,  /* another protocol or port, or headers that the stack itself refuses: untouched */
	KLAIS_FRAGMENT = 2,  /* not the first fragment, so it has no frame header: untouched */
	KLAIS_TOO_SHORT = 3,
	KLAIS_BAD_MAGIC = 4,
	KLAIS_BAD_DEVICE_ID = 5,
	KLAIS_BLOCKED = 6,
	KLAIS_DEVICE_RATE = 7,
	KLAIS_GLOBAL_RATE = 8,
	KLAIS_RING_FULL = 9,   /* accepted, but the ring had no free slot: lost */
	KLAIS_TOO_LONG = 10,   /* accepted, but longer than a slot of the ring: to the stack */
	KLAIS_UNPARSABLE = 11, /* the stack may follow the headers to one of our UDP datagrams, the filter cannot */
	KLAIS_SOURCE_DENIED = 12,
	KLAIS_SOURCE_RATE = 13,
	KLAIS_FRAGMENT_DROPPED = 14, /* any fragment, while klais_config.drop_fragments is set */
	KLAIS_AGGREGATED = 15,	     /* many datagrams in one packet: untouched, the stack splits it */
	KLAIS_BAD_MAC = 16,	     /* a signed frame with a wrong tag, or with a key that is not loaded */
	KLAIS_UNSIGNED = 17,	     /* a plain frame, while klais_auth.mode has KLAIS_AUTH_REQUIRE */
	KLAIS_UNVERIFIED = 18,	     /* a signed frame that the filter cannot check, above the rate for such frames */
	KLAIS_BLOCKED_SOURCE = 19,
	KLAIS_WOULD = 32,
	KLAIS_WOULD_TOO_SHORT = KLAIS_WOULD | KLAIS_TOO_SHORT,
	KLAIS_WOULD_BAD_MAGIC = KLAIS_WOULD | KLAIS_BAD_MAGIC,
	KLAIS_WOULD_BAD_DEVICE_ID = KLAIS_WOULD | KLAIS_BAD_DEVICE_ID,
	KLAIS_WOULD_BLOCKED = KLAIS_WOULD | KLAIS_BLOCKED,
	KLAIS_WOULD_DEVICE_RATE = KLAIS_WOULD | KLAIS_DEVICE_RATE,
	KLAIS_WOULD_GLOBAL_RATE = KLAIS_WOULD | KLAIS_GLOBAL_RATE,
	KLAIS_WOULD_UNPARSABLE = KLAIS_WOULD | KLAIS_UNPARSABLE,
	KLAIS_WOULD_SOURCE_DENIED = KLAIS_WOULD | KLAIS_SOURCE_DENIED,
	KLAIS_WOULD_SOURCE_RATE = KLAIS_WOULD | KLAIS_SOURCE_RATE,
	KLAIS_WOULD_BAD_MAC = KLAIS_WOULD | KLAIS_BAD_MAC,
	KLAIS_WOULD_UNSIGNED = KLAIS_WOULD | KLAIS_UNSIGNED,
	KLAIS_WOULD_UNVERIFIED = KLAIS_WOULD | KLAIS_UNVERIFIED,
	KLAIS_WOULD_BLOCKED_SOURCE = KLAIS_WOULD | KLAIS_BLOCKED_SOURCE,
	KLAIS_VERDICTS = 64, /* size of an array counted by verdict; a power of two */
};

/* Bits of klais_config.monitor: a rule whose bit is set only counts what it would drop. */
enum klais_monitor {
	KLAIS_MONITOR_MAGIC = 1, /* too_short, bad_magic, bad_device_id */
	KLAIS_MONITOR_BLOCK = 2,
	KLAIS_MONITOR_DEVICE_RATE = 4,
	KLAIS_MONITOR_GLOBAL_RATE = 8,
	KLAIS_MONITOR_HEADERS = 16, /* unparsable */
	KLAIS_MONITOR_SOURCE_LIST = 32,
	KLAIS_MONITOR_SOURCE_RATE = 64,
	KLAIS_MONITOR_AUTH = 128, /* bad_mac, unsigned, unverified */
	KLAIS_MONITOR_SOURCE_BLOCK = 256,
};

/* Bits of klais_auth.mode. Without KLAIS_AUTH_KNOW signed frames count as bad_magic. */
enum klais_auth_mode {
	KLAIS_AUTH_KNOW = 1,	/* signed frames are accepted as frames */
	KLAIS_AUTH_CHECK = 2,	/* their tags are checked */
	KLAIS_AUTH_REQUIRE = 4, /* plain frames are dropped */
};

/* Bits of klais_config.source_rules: which checks of the source address are on. */
enum klais_source_rule {
	KLAIS_SOURCE_RULE_LIST = 1, /* src_allow has entries: all other sources are denied */
	KLAIS_SOURCE_RULE_RATE = 2,
	KLAIS_SOURCE_RULE_BLOCK = 4, /* src_block has entries */
};

/* klais_config.accept: where accepted frames go. */
enum klais_accept {
	KLAIS_ACCEPT_PASS = 0, /* on to the stack */
	KLAIS_ACCEPT_XSK = 1,  /* the whole packet to xsks[rx queue]; to the stack where no socket is bound */
	KLAIS_ACCEPT_RING = 2, /* the frame into the ring */
};

/* The wire frame, as in klais/core/wire/constants.py. */
enum klais_frame {
	KLAIS_MAGIC = 0xAA55,
	KLAIS_ID_OFFSET = 2,
	KLAIS_ID_BYTES = 16,
	KLAIS_HEADER_BYTES = 22,
	KLAIS_SIGNED_MAGIC = 0xAA56,
	KLAIS_MAC_BYTES = 8,
	KLAIS_MIN_SIGNED_BYTES = 37, /* header, {}, epoch, ctrl, tag */
};

enum klais_size {
	KLAIS_SLOTS = 4,	   /* slots of limits in the configuration: writers fill an unused one, then activate it */
	KLAIS_PORT_WORDS = 1024,   /* 65,536 ports, a bit each */
	KLAIS_WAYS = 2,		   /* ways in a set of the device table */
	KLAIS_PLACES = 2,	   /* candidate sets of a device */
	KLAIS_RULES = 65536,	   /* devices with their own rule */
	KLAIS_MARK_WORDS = 4096,   /* 262,144 marks, a bit each */
	KLAIS_SOURCES = 65536,	   /* source prefixes with a bucket; the least recently used is evicted */
	KLAIS_ALLOWED_SOURCES = 4096,
	KLAIS_BLOCKED_SOURCES = 4096,
	KLAIS_GENERIC = 8,	   /* interfaces that run the filter in generic mode, at most */
	KLAIS_MAX_TAGS = 2,	   /* VLAN tags that the parser walks */
	KLAIS_MAX_EXTENSIONS = 6,  /* IPv6 extension headers that the parser walks. Linux itself has no limit */
	KLAIS_GENERATIONS = 4,	   /* key generations */
	KLAIS_MAX_CHECKED = 512,   /* bytes of a signed frame before its tag, at most, for the tag to be checked */
	KLAIS_KNOWN_BITS = 11,	   /* each CPU keeps the keys of 2048 devices, 80 KiB */
	KLAIS_QUEUES = 256,	   /* receive queues of an interface, at most */
	KLAIS_SOURCE_BYTES = 18,   /* IPv6 or v4-mapped address, port big-endian */
	KLAIS_SLOT_FRAME_BYTES = 2072,
	KLAIS_ABOUT_BYTES = 1024,  /* JSON: by whom, when and with which arguments the program was loaded */
	KLAIS_RINGBUF_HEADER_BYTES = 8, /* the kernel's header before each record of a BPF ring buffer */
};

/* Cost of one frame, in units of credit: fine enough that rates are whole units per ns. */
#define KLAIS_GLOBAL_COST 1000000000ULL	   /* rate in frames/s = units/ns */
#define KLAIS_DEVICE_COST 1000000000000ULL /* rate in thousandths of frames/s = units/ns */
#define KLAIS_SOURCE_COST KLAIS_DEVICE_COST
#define KLAIS_MAX_CAP (1ULL << 62)
#define KLAIS_FOREVER (~0ULL)
#define KLAIS_CLAIMED (~0ULL)
#define KLAIS_MAX_BACKWARDS_NS 10000000000ULL

/* A rate and a burst. cap_units 0 = no limit. */
struct klais_limit {
	__u64 rate_units; /* earned per ns */
	__u64 cap_units;  /* burst * cost of a frame, at most KLAIS_MAX_CAP */
	__u64 fill_ns;	  /* ceil(cap / rate): after this time a bucket is full, whatever it held */
};

struct klais_limits {
	struct klais_limit global;
	struct klais_limit device; /* of every device without its own limit */
};

/* The 16 bytes of a device_id as two words, first byte lowest. */
struct klais_id {
	__u64 low, high;
};

/* An IPv6 or v4-mapped address as two words, first byte lowest. */
struct klais_address {
	union {
		__u64 words[2];
		__u16 halves[8];
	};
};

/*
 * A key of src_allow and src_block, longest-prefix-match tries: prefix_bits counts the bits of family and address. The
 * value of src_allow is the same number, because the longer prefix of the two maps decides.
 */
struct klais_prefix {
	__u32 prefix_bits;
	__u32 family; /* 4 or 6, so that ::/0 does not also contain all of IPv4 */
	struct klais_address address;
};

struct klais_config {
	__u32 version; /* KLAIS_VERSION */
	__u32 accept;
	__u32 accept_ifindex; /* XSK and ring take frames of this interface only; 0 = any */
	__u32 monitor;
	__u32 load_slot;      /* limits given at load */
	__u32 set_slot;	      /* the controller's set-points, in force until the heartbeat expires */
	__u64 set_at_ns;      /* the heartbeat: when the controller last confirmed its set-points; 0 = never */
	__u64 heartbeat_ns;   /* set-points older than this are replaced by the limits given at load */
	__u32 source_rules;   /* enum klais_source_rule */
	__u32 source_slot;
	__u32 drop_fragments; /* 1: drop fragments; 0: judge the first fragment by its contents and pass the others */
	__u32 skb_tail;	      /* bytes from the end of a packet's buffer to its skb_shared_info; 0 = unknown */
	struct klais_address ipv4_mask, ipv6_mask; /* sources that share a bucket, of v4-mapped and of IPv6 addresses */
	__u32 generic[KLAIS_GENERIC];		   /* interfaces (ifindex) in generic mode; 0 = the end */
	struct klais_limit source_slots[KLAIS_SLOTS];
	struct klais_limits slots[KLAIS_SLOTS];
};

struct klais_bucket {
	__s64 credit_units; /* below 0 only until a CPU returns credit that it took too much */
	__u64 last_ns;	    /* credit is earned up to here */
};

/* The key of a generation, from which those of devices are derived. Written before `serial`. */
struct klais_generation {
	__u64 key[2];
	__u64 serial; /* random, new for each key that is written; 0 = no key */
};

/*
 * A device's key, cached by each CPU after a good tag: deriving it takes two thirds of the time that hashing a short
 * frame takes. Only a good tag writes a row, so forged frames evict no keys. Not mappable, like klais_auth.
 */
struct klais_known {
	struct klais_id id;
	__u64 serial; /* of the generation; 0 = empty */
	__u64 key[2];
};

/* Authentication of frames. Not mappable: anyone who can read it can forge frames of every device. */
struct klais_auth {
	__u64 mode;	 /* enum klais_auth_mode */
	__u64 max_bytes; /* longer signed frames pass unchecked, as do fragments, up to the rate below */
	struct klais_limit unverified;
	struct klais_bucket bucket;
	struct klais_generation generations[KLAIS_GENERATIONS];
};

/* The bucket of one device, and its key in this table. */
struct klais_way {
	__u64 key; /* 0 = empty, KLAIS_CLAIMED = being reassigned */
	struct klais_bucket bucket;
};

/* One cache line of the table of devices. */
struct klais_set {
	struct klais_way ways[KLAIS_WAYS];
	__u32 passed[KLAIS_WAYS]; /* by the way's bucket, modulo 2^32; may miss a few when CPUs collide */
	__u64 prefetch;		  /* a store here loads the line; the value is never read */
};

/* The devices of the ways. Keys of two ids may be equal, so the id decides. */
struct klais_owner {
	struct klais_id id;
	__u64 dropped;
};

/* One cache line, besides that of the set: read for each packet, written when a way is reassigned or drops a frame. */
struct klais_owners {
	struct klais_owner ways[KLAIS_WAYS];
	__u64 prefetch; /* as in klais_set */
	__u64 spare;
};

/* Parameters of the table's hash: drawn at random when the table is created, and secret. */
struct klais_spread {
	__u64 multipliers[KLAIS_PLACES][KLAIS_ID_BYTES / 4]; /* of each 32 bits of device_id */
	__u64 shift;					     /* 64 - log2(sets) */
};

/* A rule for one device; its key in the map is the whole device_id. Each part applies independently; 0 = none. */
struct klais_rule {
	__u64 block_until_ns;
	__u64 allow_until_ns;
	struct klais_limit limit;
	__u64 dropped; /* packets that the block dropped, since it began */
};

/* A blocked prefix of source addresses, the value of src_block. */
struct klais_source_block {
	__u64 until_ns;
	__u64 prefix_bits; /* as in its key */
	__u64 dropped;	   /* packets that it dropped, since it began */
};

struct klais_count {
	__u64 packets;
	__u64 bytes; /* from the Ethernet header on */
};

struct klais_ports {
	__u64 bits[KLAIS_PORT_WORDS]; /* port p: bit p % 64 of word p / 64 */
};

/*
 * devices. User space sets the bit before it writes the rule, so a packet whose bit is 0 skips the look-up in the
 * rules, which costs as much as all of its parsing.
 */
struct klais_marks {
	__u64 bits[KLAIS_MARK_WORDS];
};

struct klais_about {
	__u8 json[KLAIS_ABOUT_BYTES];
};

/* A record of the ring. With the kernel's header each takes 2112 bytes, 33 cache lines: slot i is at i * 2112. */
struct klais_slot {
	__u64 time_ns; /* when the packet was judged */
	__u32 length;  /* bytes of the frame */
	__u16 queue;
	__u8 source[KLAIS_SOURCE_BYTES];
	__u8 frame[KLAIS_SLOT_FRAME_BYTES]; /* only the first `length` bytes are written */
};

_Static_assert(sizeof(struct klais_limit) == 24, "klais_limit");
_Static_assert(sizeof(struct klais_limits) == 48, "klais_limits");
_Static_assert(sizeof(struct klais_config) == 120 + 72 * KLAIS_SLOTS, "klais_config");
_Static_assert(sizeof(struct klais_auth) == 56 + 24 * KLAIS_GENERATIONS, "klais_auth");
_Static_assert(sizeof(struct klais_known) == 40, "klais_known");
_Static_assert(sizeof(struct klais_prefix) == 24, "klais_prefix");
_Static_assert(sizeof(struct klais_id) == KLAIS_ID_BYTES, "klais_id");
_Static_assert(sizeof(struct klais_bucket) == 16, "klais_bucket");
_Static_assert(sizeof(struct klais_set) == 64, "a set is one cache line");
_Static_assert(sizeof(struct klais_owners) == 64, "owners are one cache line");
_Static_assert(sizeof(struct klais_spread) == 72, "klais_spread");
_Static_assert(sizeof(struct klais_rule) == 48, "klais_rule");
_Static_assert(sizeof(struct klais_source_block) == 24, "klais_source_block");
_Static_assert(sizeof(struct klais_count) == 16, "klais_count");
_Static_assert(sizeof(struct klais_ports) == 8192, "klais_ports");
_Static_assert(sizeof(struct klais_marks) == 32768, "klais_marks");
_Static_assert(sizeof(struct klais_slot) + KLAIS_RINGBUF_HEADER_BYTES == 33 * 64, "klais_slot");
_Static_assert(__builtin_offsetof(struct klais_slot, source) == 14, "klais_slot.source");
_Static_assert(__builtin_offsetof(struct klais_slot, frame) == 32, "klais_slot.frame");
_Static_assert((KLAIS_VERDICTS & (KLAIS_VERDICTS - 1)) == 0, "verdicts are masked");
_Static_assert(KLAIS_MARK_WORDS == 1 << 12, "the upper 12 bits of a key choose the word");

/* All maps: X(name). It names the pinned file and, with the prefix klais_, the map in the kernel. */
#define KLAIS_MAPS(X) \
	X(config) X(ports) X(counts) X(sets) X(owners) X(spread) X(rules) X(marks) X(bucket) X(sources) X(src_allow)   \
	X(xsks) X(ring) X(about) X(auth) X(known) X(src_block)

#endif

/* SPDX-License-Identifier: MIT
 *
 * Maps as the program sees them. The loader creates them, with sizes from the settings, and compiles with
 * -DKLAIS_FD_<name>=<fd>. Values of maps with one row have a fixed address in the program and need no look-up.
 */
#ifndef KLAIS_MAPS_H
#define KLAIS_MAPS_H

#include "klais.h"

/*
 * bpf_pseudo_fd, bpf_map_lookup_elem_ and similar names come from bcc's helpers.h: a map by its descriptor, and
 * calls that take a map in that form.
 */
#define KLAIS_MAP(name) bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, KLAIS_FD_##name)
#define KLAIS_VALUE(name) bpf_pseudo_fd(BPF_PSEUDO_MAP_VALUE, KLAIS_FD_##name)

#define klais_lookup(name, key) bpf_map_lookup_elem_(KLAIS_MAP(name), key)
#define klais_insert(name, key, value) bpf_map_update_elem_(KLAIS_MAP(name), key, value, BPF_NOEXIST)

/* By number instead of bcc's name: bcc replaces that by bpf_probe_read if it may not read kernel symbols. */
static long (*klais_read_kernel)(void *to, __u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

/* A row of an array; 0 beyond its end. */
#define klais_row(name, index) \
	({                                                                                                                   \
		__u32 row_ = (index);                                                                                        \
		klais_lookup(name, &row_);                                                                                   \
	})

#endif

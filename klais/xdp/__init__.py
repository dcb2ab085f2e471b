"""The XDP filter from user space: loader (bcc), pinned maps (plain bpf(2)), interfaces (netlink)."""

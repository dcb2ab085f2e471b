"""The ``ringbuf`` source: a BPF ring buffer behind the XDP filter."""

"""The edge's disk spool: frame batches that wait for Kafka, in segment files, first in, first out.

``segment.py`` is the format, ``disk.py`` the folder of segments, ``backlog.py`` disk and memory as one queue.
"""

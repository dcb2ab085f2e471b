"""How many random examples a test tries: as many as it names, times ``KLAIS_TEST_EXAMPLES`` (1 where it is not set).

``make test-bounds`` takes half of them, ``make release-test`` ten times as many.
"""

import os

TIMES = float(os.environ.get("KLAIS_TEST_EXAMPLES") or 1)


def examples(usual: int) -> int:
    """``usual`` times the factor, at least 1; for ``max_examples`` of hypothesis."""
    return max(1, round(usual * TIMES))

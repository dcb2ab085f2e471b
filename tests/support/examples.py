"""Number of random examples of a test: its usual number times ``KLAIS_TEST_EXAMPLES`` (default 1).

``make test-bounds`` runs half of them, ``make release-test`` ten times as many.
"""

import os

TIMES = float(os.environ.get("KLAIS_TEST_EXAMPLES") or 1)


def examples(usual: int) -> int:
    """Return ``usual`` times the factor, at least 1, for ``max_examples`` of hypothesis."""
    return max(1, round(usual * TIMES))

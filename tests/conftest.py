"""How all tests that draw their examples do so.

By default every machine and every run draws the same examples (derandomized, without a database), so that a change
is judged by what it changes; and no example has a deadline, which a busy machine would miss. To look for what these do
not find, ``--hypothesis-profile=search`` draws other ones each time, and ten times as many where a test does not say.
"""

import os

from hypothesis import settings

# Tables are as wide as it says; pytest-xdist gives it to its workers.
os.environ.pop("COLUMNS", None)

settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, derandomize=False, max_examples=1000)  # Hypothesis draws alike in CI
settings.load_profile("same")

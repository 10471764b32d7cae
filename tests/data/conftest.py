"""Which of these tests there are."""

import os

# The real files are in the folder that this names, or nowhere.
collect_ignore = [] if os.environ.get("NFBOOK_DATA") else ["test_real_sets.py"]

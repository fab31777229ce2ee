"""Settings that every test shares."""

import pytensor  # noqa: F401, which sets the recursion limit, and hypothesis warns if that happens within a test
from hypothesis import settings

# The same examples on every run, so that a red run can be repeated; compiling and opening stores take no fixed time.
settings.register_profile("dvi", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("dvi")

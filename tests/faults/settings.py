"""How much the tests of faults try: a sample in ``make test``, all of it in ``make faults``."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("KINEMIC_FAULTS"))

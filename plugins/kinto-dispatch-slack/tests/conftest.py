"""Lets the tests import what reads messages as Slack does."""

from __future__ import annotations

import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parent))

"""From the log to the lanes: every captured event enters each lane whose route wants it, once.

In the order of the data: ``reading`` decodes what stands in the log, ``judging`` asks the channels
what they get of it, by their own routes or by hooks in metadata (``subscribers``), ``entries``
makes deliveries of that, and ``router`` brings them into the lanes.
"""

from kinto_dispatch.router.judging import deliveries, select
from kinto_dispatch.router.router import Router


__all__ = ["Router", "deliveries", "select"]

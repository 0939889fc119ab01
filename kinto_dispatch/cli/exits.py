"""The exit codes of every command."""

OK = 0
FAILED = 1
USAGE = 2
NOTHING_MATCHED = 3
QUEUE_UNREACHABLE = 69
"""``EX_UNAVAILABLE`` of sysexits.h."""

BAD_CONFIGURATION = 78
"""``EX_CONFIG`` of sysexits.h."""

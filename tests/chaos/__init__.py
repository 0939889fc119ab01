"""Everything is killed while clients write, and a ledger says what arrived.

``python -m tests.chaos`` runs it and prints one JSON object. A client writes through HTTP to a
real Kinto on PostgreSQL and notes each operation as ok, failed or unknown; the channels note on
disk what they are given; at the end sets are compared, never counts.
"""

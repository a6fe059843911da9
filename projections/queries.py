"""The statements of `queries.sql` by name."""

from ledger.queries import load_queries

SQL = load_queries("projections")

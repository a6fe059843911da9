"""The statements of `queries.sql` by name."""

from ledger.queries import load_queries

SQL = load_queries("projections")

# each selection of events, `select_...`, becomes a query of events with their outcomes, `events_...`
_WITH_OUTCOMES = SQL.pop("events_with_outcomes")
# one condition tells which events have warnings
_HAS_WARNINGS = SQL.pop("has_warnings")
for _name, _sql in list(SQL.items()):
    if _name.startswith("select_"):
        SQL[_name.replace("select_", "events_", 1)] = _WITH_OUTCOMES.replace("{events}", SQL.pop(_name))
    else:
        SQL[_name] = _sql.replace("{has_warnings}", _HAS_WARNINGS)

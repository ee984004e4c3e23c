"""What is to be proven: properties, witnesses, instance lists and results."""

from provenn.specs._query import ClauseBatch as ClauseBatch, Query as Query
from provenn.specs._reader import parse_query as parse_query, read_query as read_query

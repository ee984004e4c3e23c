"""What is to be proven: properties, witnesses, instance lists and results."""

from provenn.specs._assignment import format_assignment as format_assignment
from provenn.specs._assignment import parse_assignment as parse_assignment
from provenn.specs._composition import Composition as Composition
from provenn.specs._composition import Equality as Equality
from provenn.specs._composition import Network as Network
from provenn.specs._composition import Tensor as Tensor
from provenn.specs._files import read_bytes as read_bytes
from provenn.specs._files import resolve as resolve
from provenn.specs._instances import Instance as Instance
from provenn.specs._instances import read_instances as read_instances
from provenn.specs._query import ClauseBatch as ClauseBatch
from provenn.specs._query import Query as Query
from provenn.specs._reader import is_version_2 as is_version_2
from provenn.specs._reader import parse_query as parse_query
from provenn.specs._reader import read_query as read_query
from provenn.specs._results import ResultRow as ResultRow
from provenn.specs._results import append_result as append_result
from provenn.specs._results import read_results as read_results
from provenn.specs._results import unfinished as unfinished
from provenn.specs._tables import Table as Table
from provenn.specs._tables import read_tables as read_tables
from provenn.specs._witness import Witness as Witness
from provenn.specs._witness import format_witness as format_witness
from provenn.specs._witness import parse_witness as parse_witness
from provenn.specs._witness import read_witness as read_witness
from provenn.specs._witness import write_witness as write_witness

"""A page about results: tables, figures, conflicts."""

from provenn.verifier.pages.files import sources as sources
from provenn.verifier.pages.files import write as write
from provenn.verifier.pages.page import page as page
from provenn.verifier.pages.reports import Reports as Reports

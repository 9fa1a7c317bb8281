"""Real silicon and real logs: run the golden loop for hours, and read what such runs wrote down."""

from holdfast.soak.analysis import Analysis, analyse
from holdfast.soak.counts import Counts, read_counts
from holdfast.soak.importing import Imported, import_logs
from holdfast.soak.logs import Log, read_log
from holdfast.soak.nvbitfi import read_results
from holdfast.soak.rates import Rate, compare_rates
from holdfast.soak.run import Soak, SoakReport, soak

__all__ = [
    "Analysis",
    "Counts",
    "Imported",
    "Log",
    "Rate",
    "Soak",
    "SoakReport",
    "analyse",
    "compare_rates",
    "import_logs",
    "read_counts",
    "read_log",
    "read_results",
    "soak",
]

"""Make a classifier faster, and know that it is: honest timing, agreement, the floor, one file.

An *engine* is one way to run the network: pictures in, logits out. Notebook 05 builds each in a
cell, with the library's own calls; what is here measures and compares them.
"""

from ..errors import old_names
from ..runtime import cpu_has_int8
from .compare import BASELINE, agreement, compare, for_reading, pareto, recommend, usable
from .deploy import export_deployable, run_standalone
from .engines import (
    CalibrationReader,
    Engine,
    check_export,
    known_warnings_hidden,
    megabytes,
    torch_engine,
)
from .merging import MERGED_FROM, MERGED_PER_LAYER, MergingViT, merge
from .openvino import openvino_engine
from .roofline import count_operations, floor_ms, matrix_rates, rate_table, runs_in
from .timing import race, speedup_interval, timing_table

__getattr__ = old_names(__name__)

"""Make a classifier faster, and know that it is: honest timing, agreement, the floor, one file.

An *engine* is one way to run the network: pictures in, logits out. Notebook 05 builds each in a
cell, with the library's own calls; what is here measures and compares them.

| module | what is in it |
|---|---|
| `timing` | turns, medians, intervals |
| `engines` | what an engine is; attention of a twin; export to ONNX and its check |
| `openvino` | OpenVINO, and its int8 by nncf |
| `compare` | every engine on the same pictures: speed, agreement, verdict, recommendation |
| `roofline` | operations of the network, the machine's own rate, the floor |
| `merging` | token merging |
| `deploy`, `standalone` | one file with everything inside, and the script that needs no torch |
"""

from .compare import (
    BASELINE,
    RECOMMENDED_FROM,
    USABLE_FROM,
    agreement,
    batch_consistency,
    compare,
    for_reading,
    pareto,
    recommend,
    usable,
)
from .deploy import StandaloneRun, export_deployable, run_standalone
from .engines import (
    KNOWN_WARNINGS,
    ONNX_CHECK_BATCHES,
    CalibrationReader,
    Engine,
    LogitsOnly,
    check_export,
    cpu_has_int8,
    export_onnx,
    known_warnings_hidden,
    megabytes,
    onnx_engine,
    torch_engine,
    with_attention,
    write_whole,
)
from .merging import MERGED_FROM, MERGED_PER_LAYER, MergingViT, merge
from .openvino import openvino_engine
from .roofline import count_operations, floor_ms, matrix_rates, rate_table, runs_in
from .timing import race, speedup_interval, threads, timing_table

__all__ = [
    "BASELINE",
    "CalibrationReader",
    "Engine",
    "KNOWN_WARNINGS",
    "LogitsOnly",
    "MERGED_FROM",
    "MERGED_PER_LAYER",
    "MergingViT",
    "ONNX_CHECK_BATCHES",
    "RECOMMENDED_FROM",
    "StandaloneRun",
    "USABLE_FROM",
    "agreement",
    "batch_consistency",
    "check_export",
    "compare",
    "count_operations",
    "cpu_has_int8",
    "export_deployable",
    "export_onnx",
    "floor_ms",
    "for_reading",
    "known_warnings_hidden",
    "matrix_rates",
    "megabytes",
    "merge",
    "onnx_engine",
    "openvino_engine",
    "pareto",
    "race",
    "rate_table",
    "recommend",
    "run_standalone",
    "runs_in",
    "speedup_interval",
    "threads",
    "timing_table",
    "torch_engine",
    "usable",
    "with_attention",
    "write_whole",
]

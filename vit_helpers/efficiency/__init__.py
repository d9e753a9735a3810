"""Make a classifier faster, and know that it is: variants, honest timing, agreement, export.

A *variant* is one way to run the same network: a name, a builder and what it needs. They stand in
one table, `VARIANTS`; a new one is one more entry. `build` turns variants into engines, `compare`
measures them side by side, `sweep` tries batch sizes, `matrix_rates` asks what would be possible,
`export_deployable` writes one file for a machine without torch.

Every engine takes float32 pictures in the memory of the CPU and gives float32 logits there, so a
measured time includes the copy to a GPU and back, and the wait for it.

| module | what is in it |
|---|---|
| `variants` | the table, its builders, what each needs |
| `engines` | the workshop, engines, ONNX export and its check |
| `merging` | token merging |
| `timing` | turns, medians, intervals |
| `judging` | agreement, verdicts, the recommendation, tables and JSON |
| `roofline` | the machine's own rate, operations of the network |
| `memory`, `batches` | peak memory; batch sizes |
| `deploy`, `standalone` | one file with everything inside, and the script that needs no torch |
"""

from ..runtime import synchronise
from .batches import is_out_of_memory, largest_batch, saturation, sweep
from .deploy import AloneRun, export_deployable, run_alone
from .engines import (
    KNOWN_WARNINGS,
    MERGED_PER_LAYER,
    ONNX_CHECK_BATCHES,
    Engine,
    LogitsOnly,
    Workshop,
    check_export,
    export_onnx,
    known_warnings_hidden,
    onnx_engine,
    with_attention,
    write_whole,
)
from .judging import (
    RECOMMENDED_FROM,
    USABLE_FROM,
    agree,
    compare,
    failures,
    for_reading,
    machine,
    pareto,
    recommend,
    save_results,
    usable,
)
from .memory import peak_memory
from .merging import MergingViT, merge
from .roofline import count_flops, matrix_rates, rate_table
from .timing import race, speedup_interval, threads, timing_table
from .variants import (
    BASELINE,
    VARIANTS,
    Attempt,
    Variant,
    build,
    build_table,
    needs_bf16,
    needs_compiler,
    needs_cuda,
    needs_nothing,
    needs_onnxruntime,
    needs_openvino,
    needs_torch_ao,
    needs_torchao,
    select,
)

__all__ = [
    "AloneRun",
    "Attempt",
    "BASELINE",
    "Engine",
    "KNOWN_WARNINGS",
    "LogitsOnly",
    "MERGED_PER_LAYER",
    "MergingViT",
    "ONNX_CHECK_BATCHES",
    "RECOMMENDED_FROM",
    "USABLE_FROM",
    "VARIANTS",
    "Variant",
    "Workshop",
    "agree",
    "build",
    "build_table",
    "check_export",
    "compare",
    "count_flops",
    "export_deployable",
    "export_onnx",
    "failures",
    "for_reading",
    "is_out_of_memory",
    "known_warnings_hidden",
    "largest_batch",
    "machine",
    "matrix_rates",
    "merge",
    "needs_bf16",
    "needs_compiler",
    "needs_cuda",
    "needs_nothing",
    "needs_onnxruntime",
    "needs_openvino",
    "needs_torch_ao",
    "needs_torchao",
    "onnx_engine",
    "pareto",
    "peak_memory",
    "race",
    "rate_table",
    "recommend",
    "run_alone",
    "saturation",
    "save_results",
    "select",
    "speedup_interval",
    "sweep",
    "synchronise",
    "threads",
    "timing_table",
    "usable",
    "with_attention",
    "write_whole",
]

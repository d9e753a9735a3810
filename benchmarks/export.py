"""From a classifier of transformers to an ONNX file, and to ONNX Runtime."""

import copy
from pathlib import Path

import torch
from torch import nn

from vit_helpers.efficiency import Engine, known_warnings_hidden, megabytes
from vit_helpers.errors import CourseError, one_of
from vit_helpers.resources.files import written_whole


class LogitsOnly(nn.Module):
    """A classifier that returns a plain tensor of logits, which every exporter can write down.

    Args:
        model: A classifier of transformers, which returns an object with many fields.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """From pictures (B, 3, H, W) to logits (B, classes)."""
        return self.model(pixel_values).logits


def with_attention(model: nn.Module, implementation: str) -> nn.Module:
    """A twin of a model with another attention, `eager` or `sdpa`. It shares the weights."""
    one_of("implementation", implementation, ("eager", "sdpa"))
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo=shared)
    twin.set_attn_implementation(implementation)
    return twin.eval()


def export_onnx(model: nn.Module, example: torch.Tensor, path: str | Path) -> Path:
    """Write a classifier as one ONNX file that takes any batch size.

    The input is called `pixel_values` (batch, 3, H, W), the output `logits` (batch, classes).

    Args:
        model: A classifier of transformers, or any module from pictures to a tensor of logits.
        example: Two or more pictures on the model's device: with one, the batch would be fixed.
        path: Where to write. The file is there whole or not at all.
    """
    network = LogitsOnly(model) if hasattr(model, "config") else model
    with written_whole(Path(path)) as part, torch.no_grad(), known_warnings_hidden():
        torch.onnx.export(
            network,
            (example,),
            part,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=4096)}},
            dynamo=True,
            external_data=False,  # weights inside, not in a second file that gets lost
            verbose=False,
        )
    return Path(path)


def onnx_engine(path: str | Path, provider: str = "CPUExecutionProvider") -> Engine:
    """Open an ONNX file in ONNX Runtime, with as many threads as torch uses.

    Args:
        path: The file.
        provider: What computes: the CPU, or `CUDAExecutionProvider`.

    Raises:
        CourseError: If there is no such file, or the provider is not there.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CourseError(f"There is no file {Path(path).name!r}: run the export first.")
    one_of("provider", provider, tuple(onnxruntime.get_available_providers()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if provider not in session.get_providers():  # it would compute on the CPU without a word
        raise CourseError(f"ONNX Runtime cannot load what {provider} needs, such as cuDNN.")

    def predict(pictures):
        (logits,) = session.run(["logits"], {"pixel_values": pictures.cpu().numpy()})
        return torch.from_numpy(logits)

    device = "CPU" if provider.startswith("CPU") else "GPU"
    return Engine(predict, megabytes(path), device=device, file=Path(path))

"""The model as ONNX graphs: one for the patches, one for each block, one for the head.

A graph for each block, and not one for all, because the page keeps what comes before the block
that a visitor changes: switching off a head of the last block runs the last block alone.

The weights travel beside the graphs in 16 bits, and the page widens them to 32 once: a cast in the
graph took half of the time of a picture, because the runtime in the browser does it each time, and
unpacking compressed files of 32 bits took a good part of the time to the first answer.
Computing in 8 bits was measured and is not good enough for a page that shows every map: with ONNX
Runtime's dynamic quantisation (a scale for each column of each matrix) single weights of attention
were off by up to 0.38.
"""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from vit_helpers import models
from vit_helpers.errors import CourseError

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'

# pixels -> one token a patch, with [CLS] before them and positions added.
PATCHES = """
patches (float[1, 3, {height}, {width}] pixels) => (float[1, {tokens}, {dim}] tokens)
{{
    squares = Conv <strides = [{patch}, {patch}]>
        (pixels, patch_embed_proj_weight, patch_embed_proj_bias)
    rows = Reshape (squares, shape_rows)
    columns = Transpose <perm = [0, 2, 1]> (rows)
    sequence = Concat <axis = 1> (cls_token, columns)
    tokens = Add (sequence, pos_embed)
}}
"""

# `keep` names the tokens that the block gets; `heads` and `gain` are 1, or 0 for what is off.
BLOCK = """
block (float[1, n, {dim}] tokens, int64[k] keep, float[{heads}] heads, float[1] gain)
    => (float[1, k, {dim}] out, float[1, {heads}, k, k] attention, float[1, k] norms)
{{
    x = Gather <axis = 1> (tokens, keep)

    x1 = LayerNormalization <axis = -1, epsilon = {eps}> (x, norm1_weight, norm1_bias)
    qkv_product = MatMul (x1, attn_qkv_weight)
    qkv = Add (qkv_product, attn_qkv_bias)
    q, k_, v = Split <axis = 2, num_outputs = 3> (qkv)
    q_parts = Reshape (q, shape_heads)
    k_parts = Reshape (k_, shape_heads)
    v_parts = Reshape (v, shape_heads)
    q_heads = Transpose <perm = [0, 2, 1, 3]> (q_parts)
    k_heads = Transpose <perm = [0, 2, 3, 1]> (k_parts)
    v_heads = Transpose <perm = [0, 2, 1, 3]> (v_parts)
    q_scaled = Mul (q_heads, scale)
    scores = MatMul (q_scaled, k_heads)
    attention = Softmax <axis = -1> (scores)
    mixed = MatMul (attention, v_heads)
    gains = Reshape (heads, shape_gains)
    weighted = Mul (mixed, gains)
    side_by_side = Transpose <perm = [0, 2, 1, 3]> (weighted)
    joined = Reshape (side_by_side, shape_joined)
    proj_product = MatMul (joined, attn_proj_weight)
    proj = Add (proj_product, attn_proj_bias)
    proj_gain = Mul (proj, gain)
    y = Add (x, proj_gain)

    y1 = LayerNormalization <axis = -1, epsilon = {eps}> (y, norm2_weight, norm2_bias)
    fc1_product = MatMul (y1, mlp_fc1_weight)
    fc1 = Add (fc1_product, mlp_fc1_bias)
    active = Gelu <approximate = "{approximate}"> (fc1)
    fc2_product = MatMul (active, mlp_fc2_weight)
    fc2 = Add (fc2_product, mlp_fc2_bias)
    fc2_gain = Mul (fc2, gain)
    out = Add (y, fc2_gain)
    norms = ReduceL2 <keepdims = 0> (out, axis_last)
}}
"""

# [CLS] after any block -> logits. After the last block it is the answer, before it a logit lens.
HEAD = """
head (float[l, {dim}] cls) => (float[l, {classes}] logits)
{{
    normal = LayerNormalization <axis = -1, epsilon = {eps}> (cls, norm_weight, norm_bias)
    product = MatMul (normal, head_weight)
    logits = Add (product, head_bias)
}}
"""


LAYOUT = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def graphs(model, half: bool) -> dict[str, onnx.ModelProto]:
    """The graphs of a `ViTForImageClassification` by the names of their files.

    Args:
        model: The model.
        half: Whether matrices are rounded to 16 bits.

    Raises:
        CourseError: If the model is no plain ViT.
    """
    config = model.config
    if config.model_type != "vit" or config.hidden_act not in LAYOUT:
        raise CourseError(
            f"The live page takes a plain ViT, but this is {config.model_type!r} with "
            f"{config.hidden_act!r}."
        )
    weights = {k: v.float().numpy() for k, v in models.timm_state_dict(model).items()}
    dim, heads = config.hidden_size, config.num_attention_heads
    sizes = {
        "dim": dim,
        "heads": heads,
        "eps": config.layer_norm_eps,
        "height": config.image_size,
        "width": config.image_size,
        "patch": config.patch_size,
        "tokens": weights["pos_embed"].shape[1],
        "classes": config.num_labels,
        "approximate": LAYOUT[config.hidden_act],
    }
    shapes = {
        "shape_rows": (1, dim, -1),
        "shape_heads": (1, -1, heads, dim // heads),
        "shape_gains": (1, heads, 1, 1),
        "shape_joined": (1, -1, dim),
        "axis_last": (-1,),
    }
    constants = {name: np.array(shape, dtype=np.int64) for name, shape in shapes.items()}
    constants["scale"] = np.array((dim // heads) ** -0.5, dtype=np.float32)
    # A model may do without biases of query, key and value; the graph is one for all.
    zeros = {
        f"blocks.{i}.attn.qkv.bias": np.zeros(3 * dim, dtype=np.float32)
        for i in range(config.num_hidden_layers)
    }
    weights = zeros | weights
    files = {"patches.onnx": _graph(PATCHES.format(**sizes), constants | _named(weights), half)}
    for i in range(config.num_hidden_layers):
        names = constants | _named(weights, f"blocks.{i}.")
        files[f"block-{i:02d}.onnx"] = _graph(BLOCK.format(**sizes), names, half)
    files["head.onnx"] = _graph(HEAD.format(**sizes), constants | _named(weights), half)
    return files


def _named(weights: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """The weights below a prefix, as a graph calls them: no dots, and matrices as `x @ W`."""
    found = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return {
        name.replace(".", "_"): np.ascontiguousarray(v.T) if v.ndim == 2 else v
        for name, v in found.items()
    }


def _graph(text: str, values: dict[str, np.ndarray], half: bool) -> onnx.ModelProto:
    """A checked graph from its text, with the values that it names."""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & values.keys()):
        value = values[name]
        if half and value.ndim >= 2:
            value = value.astype(np.float16).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.checker.check_model(model)
    return model


def packed(files: dict[str, onnx.ModelProto], half: bool) -> dict[str, bytes]:
    """The graphs as files, their matrices apart in one `weights.bin`, with 16 bits if `half`.

    The graphs name the places of 32-bit values, which is what the page makes of them.
    """
    written, weights, place = {}, [], 0
    for name, graph in files.items():
        graph = onnx.ModelProto.FromString(graph.SerializeToString())
        for tensor in graph.graph.initializer:
            value = numpy_helper.to_array(tensor)
            if value.ndim < 2:
                continue
            weights.append(value.astype(np.float16 if half else np.float32).tobytes())
            set_external_data(tensor, "weights.bin", place, value.nbytes)
            tensor.ClearField("raw_data")
            place += value.nbytes
        written[name] = graph.SerializeToString()
    return written | {"weights.bin": b"".join(weights)}


class Runner:
    """Runs the graphs as the page does, with ONNX Runtime in Python."""

    def __init__(self, files: dict[str, onnx.ModelProto]):
        import onnxruntime

        self.heads = files["block-00.onnx"].graph.input[2].type.tensor_type.shape.dim[0].dim_value
        self.sessions = {
            name: onnxruntime.InferenceSession(
                graph.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            for name, graph in files.items()
        }

    def __call__(self, pixels, heads=None, gains=None, keep=None):
        """Run one picture.

        Args:
            pixels: Shape (1, 3, H, W), float32.
            heads: Shape (L, H), 1 or 0 for heads that are off; all on if `None`.
            gains: Shape (L,), 1 or 0 for blocks that are skipped; all used if `None`.
            keep: Numbers of the tokens that stay; all if `None`.

        Returns:
            `(logits after every block (L, classes), attention (L, H, T, T), norms (L, T))`.
        """
        blocks = [name for name in self.sessions if name.startswith("block")]
        heads = np.ones((len(blocks), self.heads)) if heads is None else np.asarray(heads)
        gains = np.ones(len(blocks)) if gains is None else np.asarray(gains)
        (x,) = self.sessions["patches.onnx"].run(None, {"pixels": pixels})
        keep = np.arange(x.shape[1]) if keep is None else np.asarray(keep)
        cls, maps, norms = [], [], []
        for i, name in enumerate(blocks):
            feed = {
                "tokens": x,
                "keep": keep.astype(np.int64),
                "heads": heads[i].astype(np.float32),
                "gain": gains[i : i + 1].astype(np.float32),
            }
            x, attention, lengths = self.sessions[name].run(None, feed)
            cls.append(x[0, 0])
            maps.append(attention[0])
            norms.append(lengths[0])
            keep = np.arange(len(keep))
        (logits,) = self.sessions["head.onnx"].run(None, {"cls": np.stack(cls)})
        return logits, np.stack(maps), np.stack(norms)

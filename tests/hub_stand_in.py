"""A small stand-in for the Hugging Face Hub: HTTP on 127.0.0.1, with faults to order.

It serves a model in the parameter names of the published checkpoint, both data sets in their true
schemas, a picture, and the authors' own files of Flowers-102. `transformers` and `datasets` can
talk to it as well as the course can.
"""

import hashlib
import io
import itertools
import json
import re
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import factories
from PIL import Image

from vit_helpers import resources
from vit_helpers.resources import File

LFS = (".safetensors", ".parquet", ".tgz")  # like the Hub: large files by redirect and SHA-256
FAULTS = ("503", "silent", "drop", "stall", "truncate", "corrupt", "page")


@dataclass
class Fault:
    """What goes wrong: for requests whose path fits `where`, after `after` of them, `times` times.

    `503`: the server is overloaded. `silent`: it takes the request and says nothing. `drop`: it
    hangs up in the middle of a body. `stall`: it stops there, and stays. `truncate`: its own copy
    is cut, and it does not know. `corrupt`: one byte is wrong. `page`: a log-in page for all.
    """

    kind: str
    where: str = ""
    after: int = 0
    times: int = 10**9
    seen: int = 0

    def strikes(self, path: str) -> bool:
        if not re.search(self.where, path):
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


@dataclass
class StandIn:
    """The server. `files` maps a path below the address to bytes; `log` has every request."""

    files: dict[str, bytes]
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self):
        self.closing = threading.Event()
        self.server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self.server.server_address[1]
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return self

    def __exit__(self, *exc):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refuse(self) -> None:
        """From now on nobody listens at the address."""
        self.__exit__()

    def fault(self, kind: str, where: str = "", after: int = 0, times: int = 10**9) -> Fault:
        if kind == "refuse":
            return self.refuse()
        assert kind in FAULTS
        self.faults.append(Fault(kind, where, after, times))
        return self.faults[-1]

    def repair(self) -> None:
        self.faults.clear()

    def rows(self) -> dict[str, resources.Resource]:
        """The table of the course with the addresses outside the Hub turned here."""
        table = dict(resources.RESOURCES)
        photo, flowers = table["photo"], table["flowers102"]
        table["photo"] = replace(
            photo,
            hub_id=f"{self.address}/photos/000000039769.jpg",
            files=(File("photo", f"{self.address}/photos/000000039769.jpg"),),
            mirror=(File("photo", f"{self.address}/mirror/000000039769.png"),),
        )
        table["flowers102"] = replace(
            flowers, mirror=tuple(self._mirrored(file) for file in flowers.mirror)
        )
        return table

    def _mirrored(self, file: File) -> File:
        path = f"/mirror/{file.path.removeprefix('original/')}"
        content = self.files[path]
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return File(file.path, self.address + path, len(content), f"md5:{md5}")


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that hangs up is no error; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(hub: StandIn):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(json.loads(body) if body.startswith(b"{") else {})

        def do_GET(self):
            self.answer({})

        do_HEAD = do_GET

        def answer(self, body):
            path = unquote(urlsplit(self.path).path)
            hub.log.append(f"{self.command} {path}")
            fault = next((f for f in hub.faults if f.strikes(path)), None)
            kind = fault.kind if fault else ""
            if kind == "silent":
                hub.closing.wait(60)
                self.close_connection = True
            elif kind == "503":
                self.send(b"overloaded", 503)
            elif kind == "page":
                self.send(b"<html>Please log in</html>", headers={"Content-Type": "text/html"})
            elif path.startswith("/api/"):
                self.api(path, body)
            else:
                self.file(path, kind)

        def api(self, path, body):
            found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)/(.+))?", path)
            if not found:  # such as /api/whoami-v2
                return self.send(b"{}", 404)
            kind, repository, verb, rest = found.groups()
            prefix = "/" if kind == "models" else "/datasets/"
            base = f"{prefix}{repository}/resolve/"
            revisions = {p[len(base) :].split("/")[0] for p in hub.files if p.startswith(base)}
            revision = (rest or "main").split("/")[0]
            if revision == "main" and revisions:
                revision = next(iter(revisions))
            if revision not in revisions:
                return self.send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            base += revision + "/"
            entries = [
                self.entry(p.removeprefix(base), content)
                for p, content in hub.files.items()
                if p.startswith(base)
            ]
            if verb == "paths-info":
                wanted = body.get("paths", [])
                self.send_json([e for e in entries if e["path"] in wanted])
            elif verb == "tree":
                below = "/".join(rest.split("/")[1:])
                folders = {e["path"].split("/")[0] for e in entries if "/" in e["path"]}
                entries = [e for e in entries if e["path"].startswith(below)]
                entries += [
                    {"type": "directory", "oid": "0", "size": 0, "path": f} for f in folders
                ]
                self.send_json(entries)
            else:
                names = [{"rfilename": e["path"]} for e in entries if e["type"] == "file"]
                info = {"id": repository, "sha": revision, "siblings": names, "tags": []}
                self.send_json(info | {"private": False, "downloads": 0, "likes": 0})

        def entry(self, path, content):
            entry = {"type": "file", "oid": git_id(content), "size": len(content), "path": path}
            if path.endswith(LFS):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            return entry

        def file(self, path, kind):
            if "/resolve/main/" in path:  # the newest commit, as on the Hub; here there is one
                base, name = path.split("/resolve/main/")
                start = f"{base}/resolve/"
                commits = [p[len(start) :].split("/")[0] for p in hub.files if p.startswith(start)]
                path = f"{start}{commits[0]}/{name}" if commits else path
            content = hub.files.get(path.removeprefix("/cdn"))
            if content is None:
                return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{git_id(content)}"', "Accept-Ranges": "bytes"}
            if resolve := re.search(r"/resolve/([^/]+)/", path):
                headers["X-Repo-Commit"] = resolve[1]
            if resolve and path.endswith(LFS) and not path.startswith("/cdn"):
                headers["X-Linked-ETag"] = f'"{sha256(content)}"'
                headers["X-Linked-Size"] = str(len(content))
                return self.send(b"", 302, headers | {"Location": f"/cdn{path}"})
            if kind == "truncate":
                content = content[: len(content) // 2]
            if kind == "corrupt":
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = 0
            status = 200
            if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start, status = int(asked[1]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                if start >= len(content):
                    return self.send(b"", 416)
            self.send(content[start:], status, headers, cut=kind in ("drop", "stall"))
            if kind == "stall":
                hub.closing.wait(60)
            if kind in ("drop", "stall"):
                self.close_connection = True

        def send_json(self, what):
            self.send(json.dumps(what).encode(), headers={"Content-Type": "application/json"})

        def send(self, content, status=200, headers=None, cut=False):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.wfile.flush()

    return Handler


KNOWN = {0: "tench, Tinca tinca", 285: "Egyptian cat"}
PUBLISHED_NAMES = {207: "golden retriever", 281: "tabby, tabby cat"}


# --- what it serves ------------------------------------------------------------------------------

OLD_NAMES = (
    # transformers 5 -> the names in the published file
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attention.attention.{_LONG[m[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_LONG = {"q": "query", "k": "key", "v": "value"}


def old_name(name: str) -> str:
    for pattern, new in OLD_NAMES:
        name = re.sub(pattern, new, name)
    return name


def content(seed: int = 0) -> tuple[dict[str, bytes], object]:
    """`(files, model)`: everything that the stand-in serves, and the model that is among it."""
    model, names = _random_model(seed)
    files = _model(model, names)
    files |= _data_set("cifar10", "img", _coloured(32, 10, {"train": 2, "test": 1}))
    splits = {"train": 1, "validation": 1, "test": 2}
    files |= _data_set("flowers102", "image", _coloured(20, 102, splits))
    files["/photos/000000039769.jpg"] = _picture(7, (64, 48), "JPEG")
    files["/mirror/000000039769.png"] = _picture(7, (64, 48), "PNG")
    return files | _authors_flowers(), model


def full_size() -> dict[str, bytes]:
    """The same, in the size of the real thing: a ViT-B/16, and data sets of hundreds of pictures.

    The model is the offline one at four times its width, so its answers mean something; the
    pictures are those of the offline twins, under the names of the real classes.
    """
    from datasets import load_dataset

    from vit_helpers import runtime

    runtime.start("cifar10", "flowers102")
    files = content()[0] | _model(*_model_of_the_kit(4))
    files["/photos/000000039769.jpg"] = _photo()
    for name in ("cifar10", "flowers102"):
        splits, column = (
            load_dataset(runtime.current().locate(name)),
            {"cifar10": "img"}.get(name, "image"),
        )
        files |= _data_set(name, column, {k: _as_stored(v, column) for k, v in splits.items()})
    return files


PUBLISHED_LOGITS = (-0.2744, 0.8215, -0.0836)  # of the first classes, for the two cats


def as_published() -> dict[str, bytes]:
    """What the tests of the real Hub ask for: its logits, its order of labels, its numbers.

    The model is the kit's with 1,000 classes. It gives the photograph the published logits.
    """
    import torch
    from transformers import ViTImageProcessorPil

    model, names = _model_of_the_kit(1)
    photo = Image.open(io.BytesIO(_photo())).convert("RGB")
    processor = ViTImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with torch.no_grad():
        given = model(**processor(images=photo, return_tensors="pt")).logits[0]
        wanted, bias = torch.tensor(PUBLISHED_LOGITS), model.classifier.bias
        bias[: len(wanted)] += wanted - given[: len(wanted)]
        bias[285] = 30  # an Egyptian cat
    files = content()[0] | _model(model, names | PUBLISHED_NAMES)
    files["/val2017/000000039769.jpg"] = _photo()  # as a proxy is asked for it
    files |= _data_set("cifar10", "img", _coloured(8, 10, {"train": 5000, "test": 1000}))
    flowers = _coloured(8, 102, {"train": 10, "validation": 10, "test": 61})
    flowers["test"] = flowers["test"][:6149]
    return files | _data_set("flowers102", "image", flowers)


def _model_of_the_kit(times: int):
    """The kit's model at `times` its width with 1,000 classes, and the names of its classes."""
    import torch

    from benchmarks.widening import widen
    from vit_helpers import runtime

    runtime.start("classifier")
    model = widen(factories.classifier("eager")[0], times)
    known = model.classifier
    model.classifier = torch.nn.Linear(known.in_features, 1000)
    with torch.no_grad():  # the other classes are never the answer
        model.classifier.weight.zero_()[: known.out_features] = known.weight
        model.classifier.bias.fill_(-20)[: known.out_features] = known.bias
    names = {i: f"class {i}" for i in range(1000)} | model.config.id2label | KNOWN
    return model.eval(), names


def _photo() -> bytes:
    return resources.get("photo").twin_path.read_bytes()


def _as_stored(split, column):
    import datasets

    stored = split.cast_column(column, datasets.Image(decode=False))
    return [(row[column]["bytes"], row["label"]) for row in stored]


def _picture(number: int, size=(20, 20), format="JPEG") -> bytes:
    buffer = io.BytesIO()
    colour = (number * 37 % 256, number * 91 % 256, number * 13 % 256)
    Image.new("RGB", size, colour).save(buffer, format)
    return buffer.getvalue()


def _random_model(seed: int):
    """A tiny classifier of 1,000 classes, and the names of its classes."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    names = {i: KNOWN.get(i, f"class {i}") for i in range(1000)}
    torch.manual_seed(seed)
    config = ViTConfig(hidden_size=24, intermediate_size=48, id2label=names, num_labels=1000)
    return ViTForImageClassification(config).eval(), names


def _model(model, names: dict[int, str]) -> dict[str, bytes]:
    """The files of a model, as they were published in 2021."""
    from safetensors.torch import save

    row = resources.get("classifier")
    weights = {old_name(k): v.contiguous() for k, v in model.state_dict().items()}
    settings = {
        "architectures": ["ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": model.config.hidden_size,
        "id2label": {str(i): name for i, name in names.items()},
        "image_size": 224,
        "initializer_range": 0.02,
        "intermediate_size": model.config.intermediate_size,
        "label2id": {name: str(i) for i, name in names.items()},
        "layer_norm_eps": 1e-12,
        "model_type": "vit",
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "patch_size": 16,
        "qkv_bias": True,
        "transformers_version": "4.13.0.dev0",
    }
    steps = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": 224,
    }
    base = f"/{row.hub_id}/resolve/{row.revision}/"
    return {
        base + "config.json": json.dumps(settings, indent=2).encode(),
        base + "preprocessor_config.json": json.dumps(steps, indent=2).encode(),
        base + "model.safetensors": save(weights, metadata={"format": "pt"}),
        base + "pytorch_model.bin": b"a pickle, which the course does not want",
    }


def _names(name: str) -> list[str]:
    from torchvision.datasets import Flowers102

    if name == "flowers102":
        return list(Flowers102.classes)
    return "airplane automobile bird cat deer dog frog horse ship truck".split()


SHARDS = {("flowers102", "test"): 6}
FOLDERS = {"cifar10": "plain_text", "flowers102": "data"}


def _coloured(side: int, classes: int, per_class: dict[str, int]) -> dict[str, list]:
    """Splits of single-coloured pictures: `(bytes of a PNG, label)`, no two alike."""
    numbers = itertools.count()
    return {
        split: [
            (_picture(next(numbers), (side, side), "PNG"), label)
            for label in range(classes)
            for _ in range(count)
        ]
        for split, count in per_class.items()
    }


def _data_set(name: str, column: str, splits: dict[str, list]) -> dict[str, bytes]:
    """The files of a data set: a Parquet file for each split, and the card that names them."""
    import datasets

    row, names, folder = resources.get(name), _names(name), FOLDERS[name]
    features = datasets.Features(
        {column: datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    base = f"/datasets/{row.hub_id}/resolve/{row.revision}/"
    files = {}
    for split, pairs in splits.items():
        pictures = [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(pairs)]
        rows = {column: pictures, "label": [label for _, label in pairs]}
        whole, shards = (
            datasets.Dataset.from_dict(rows, features=features),
            SHARDS.get((name, split), 1),
        )
        for shard in range(shards):
            buffer = io.BytesIO()
            whole.shard(shards, shard, contiguous=True).to_parquet(buffer)
            files[f"{base}{folder}/{split}-{shard:05d}-of-{shards:05d}.parquet"] = buffer.getvalue()
    lines = ["---", "dataset_info:", f"  config_name: {folder}", "  features:"]
    lines += [f"  - name: {column}", "    dtype: image", "  - name: label", "    dtype:"]
    lines += ["      class_label:", "        names:"]
    lines += [f"          '{i}': \"{text}\"" for i, text in enumerate(names)]
    lines += ["configs:", f"- config_name: {folder}", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {folder}/{split}-*"]
    files[f"{base}README.md"] = "\n".join([*lines, "---", "# Card", ""]).encode()
    return files


def _authors_flowers() -> dict[str, bytes]:
    """`102flowers.tgz` and the two tables of labels and splits, with four pictures a class."""
    import numpy as np
    from scipy.io import savemat

    count = 4 * 102
    archive, tables = io.BytesIO(), {"imagelabels.mat": io.BytesIO(), "setid.mat": io.BytesIO()}
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for number in range(1, count + 1):
            picture = _picture(number)
            entry = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            entry.size, entry.mtime = len(picture), int(time.time())
            tar.addfile(entry, io.BytesIO(picture))
    numbers = np.arange(1, count + 1)
    labels = (numbers - 1) % 102 + 1
    savemat(tables["imagelabels.mat"], {"labels": labels})
    parts = {"trnid": numbers[:102], "valid": numbers[102:204], "tstid": numbers[204:]}
    savemat(tables["setid.mat"], parts)
    files = {f"/mirror/{name}": table.getvalue() for name, table in tables.items()}
    return files | {"/mirror/102flowers.tgz": archive.getvalue()}

"""The Hub as a learner meets it: cold, warm, and with every fault, against a stand-in on 127.0.0.1.

Nothing here leaves the machine: a connection to any other address fails the test. Where somebody
waits for nothing, the waits are shortened; `test_longest_silence` holds the real ones to what a
learner may be kept waiting.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import factories
import hub_stand_in
import pytest
import requests
import torch
from PIL import Image

from vit_helpers import __main__, data, images, models, resources, runtime
from vit_helpers.cli import doctor
from vit_helpers.errors import CourseError
from vit_helpers.resources import download, store

EVERYTHING = ("classifier", "cifar10", "flowers102", "photo")


def load(name):
    """Load a resource as the notebooks do."""
    if name == "classifier":
        return factories.classifier()
    if name == "photo":
        return images.load_image()
    import datasets

    return datasets.load_dataset(runtime.current().locate(name))


FAULTS = ("refuse", *hub_stand_in.FAULTS)
QUICK = 3.0  # seconds until a learner has an answer, with the shortened waits


@pytest.fixture(scope="session")
def served():
    return hub_stand_in.content()


@pytest.fixture
def hub(served, monkeypatch, tmp_path):
    """A running stand-in, an empty machine, and no way to any other address."""
    with hub_stand_in.StandIn(dict(served[0])) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
        monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("VIT_SOURCE", "hub")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        for name, row in stand_in.rows().items():
            monkeypatch.setitem(resources.RESOURCES, name, row)
        connect = socket.socket.connect

        def only_here(self, address):
            if isinstance(address, tuple) and address[:2] != ("127.0.0.1", stand_in.port):
                pytest.fail(f"a connection to {address}")
            return connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", only_here)
        with runtime.override(None):
            yield stand_in


@pytest.fixture
def hasty(hub, monkeypatch):
    """The stand-in, and a learner who waits for it a tenth as long."""
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.02)
    return hub


def find(name):
    return resources.find(name, runtime.settings())


def forbid_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: pytest.fail(f"asked {to}"))


def partial_files(tmp_path):
    return sorted(p.name for p in tmp_path.rglob("*.part"))


# --- cold and warm -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYTHING)
def test_cold_then_warm_without_a_network(hub, name, monkeypatch):
    runtime.start()
    first = load(name)
    assert hub.log
    hub.refuse()
    forbid_network(monkeypatch)
    start = time.perf_counter()
    second = load(name)
    assert time.perf_counter() - start < QUICK
    assert type(second) is type(first)


def test_the_setup_cell_brings_all_and_then_no_loader_asks_the_network(hub, monkeypatch, capsys):
    rt = runtime.start(*EVERYTHING)
    assert rt.source == "hub"
    shown = capsys.readouterr().out
    assert "downloading classifier (google/vit-base-patch16-224" in shown
    assert "NOTE" not in shown
    hub.refuse()
    forbid_network(monkeypatch)
    for name in EVERYTHING:
        load(name)


def test_only_the_files_that_are_needed_are_asked_for(hub):
    runtime.start(*EVERYTHING)
    assert not [request for request in hub.log if ".bin" in request]
    assert not [request for request in hub.log if "/api/" in request]


def test_the_hub_is_asked_for_the_pinned_revision(hub):
    runtime.start(*EVERYTHING)
    for name in ("classifier", "cifar10"):
        row = resources.get(name)
        asked = [request for request in hub.log if row.hub_id in request]
        assert asked and all(row.revision in request for request in asked)


def test_old_parameter_names_load_whole(hub, served):
    runtime.start("classifier")
    names = {*torch_file_names(find("classifier") / "model.safetensors")}
    assert "vit.encoder.layer.0.attention.attention.query.weight" in names
    model, processor = factories.classifier()
    for name, value in served[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    picture = Image.new("L", (30, 50), 90).convert("RGB")
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
    ours = data.eval_transform(processor)(data.to_tensor(picture))[None]
    assert torch.allclose(ours, pixels, atol=1e-6)
    with torch.inference_mode():
        assert model(pixels).logits.shape == (1, 1000)


def torch_file_names(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_label_maps_are_whole_numbers_and_in_the_known_order(hub):
    runtime.start("classifier")
    model, _ = factories.classifier()
    assert model.config.id2label[285] == "Egyptian cat"


SCHEMAS = {"cifar10": ("img", 10), "flowers102": ("image", 102)}


@pytest.mark.parametrize("name", SCHEMAS)
def test_hub_and_kit_give_the_same_schema(hub, name, monkeypatch):
    column, classes = SCHEMAS[name]
    runtime.start(name)
    ours = load(name)
    monkeypatch.setenv("VIT_SOURCE", "offline")
    runtime.start(name)
    twin = load(name)
    # Only the twin of CIFAR-10 brings a validation split.
    assert set(ours) | {"validation"} == set(twin)
    for split in ours:
        assert ours[split].column_names == twin[split].column_names == [column, "label"]
        assert data.image_column(ours[split]) == column
        assert len(data.class_names(ours[split])) == classes
        assert [type(f) for f in ours[split].features.values()] == [
            type(f) for f in twin[split].features.values()
        ]
        assert isinstance(ours[split][0][column], Image.Image)
        assert isinstance(ours[split][0]["label"], int)


def test_the_libraries_themselves_load_the_same_from_the_stand_in(hub, tmp_path):
    # Otherwise the stand-in could be a Hub of its own kind, and our way of reading wrong.
    code = """
import datasets, json, sys
from transformers import ViTForImageClassification
sets = {"cifar10": "uoft-cs/cifar10", "flowers102": "dpdl-benchmark/oxford_flowers102"}
shown = {}
for name, hub_id in sets.items():
    loaded = datasets.load_dataset(hub_id, revision=sys.argv[sys.argv.index(name) + 1])
    shown[name] = {s: [str(d.features), list(d["label"]), len(d)] for s, d in loaded.items()}
model = ViTForImageClassification.from_pretrained("google/vit-base-patch16-224")
shown["sum"] = sum(float(p.double().sum()) for p in model.parameters())
print(json.dumps(shown))
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    pins = [x for n in SCHEMAS for x in (n, resources.get(n).revision)]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *pins],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    theirs = json.loads(run.stdout.splitlines()[-1])
    runtime.start(*EVERYTHING)
    for name in SCHEMAS:
        for split, dataset in load(name).items():
            ours = [str(dataset.features), list(dataset["label"]), len(dataset)]
            assert theirs[name].pop(split) == ours
        assert theirs[name] == {}
    model, _ = factories.classifier()
    assert theirs["sum"] == sum(float(p.detach().double().sum()) for p in model.parameters())


def test_the_card_has_the_last_word_on_features(hub, tmp_path):
    import datasets
    import pyarrow.parquet

    # A Parquet file without the note that `datasets` leaves in it: the label is a plain number.
    row = resources.get("cifar10")
    base = f"/datasets/{row.hub_id}/resolve/{row.revision}/"
    path = f"{base}plain_text/train-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(io.BytesIO(hub.files[path])).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    hub.files[path] = hub.files[path.replace("train", "test")] = buffer.getvalue()
    runtime.start("cifar10")
    loaded = load("cifar10")["train"]
    assert isinstance(loaded.features["label"], datasets.ClassLabel)
    assert isinstance(loaded[0]["img"], Image.Image)


def replace(row, **changes):
    import dataclasses

    return dataclasses.replace(row, **changes)


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_fault_gives_one_sentence_soon(hasty, name, fault, tmp_path):
    runtime.start()
    hasty.fault(fault)
    if (name, fault) == ("photo", "corrupt"):
        pytest.skip("nobody publishes a digest of the photograph: one wrong bit is not noticed")
    start = time.perf_counter()
    with pytest.raises(CourseError) as caught:
        load(name)
    assert time.perf_counter() - start < QUICK
    sentence = str(caught.value)
    assert f"'{name}'" in sentence
    assert "try again" in sentence
    assert "python -m vit_helpers prefetch" in sentence
    assert "VIT_SOURCE=offline" in sentence
    assert "\n" not in sentence and sentence.count(". ") == 0
    assert find(name) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_falls_back_to_the_kit_with_a_notice(hasty, fault, monkeypatch, capsys):
    monkeypatch.setenv("VIT_SOURCE", "auto")
    hasty.fault(fault)
    start = time.perf_counter()
    rt = runtime.start("classifier", "cifar10")
    assert time.perf_counter() - start < QUICK
    assert rt.source == "offline"
    notice = capsys.readouterr().out.splitlines()[-1]
    assert notice.startswith("NOTE: 'classifier'")
    assert "offline kit" in notice
    assert factories.classifier()[0].config.hidden_size == 192  # the kit's


def test_auto_takes_the_cache_without_a_question(hub, monkeypatch, capsys):
    runtime.start(*EVERYTHING)
    hub.refuse()
    forbid_network(monkeypatch)
    monkeypatch.setenv("VIT_SOURCE", "auto")
    assert runtime.start(*EVERYTHING).source == "hub"
    assert "NOTE" not in capsys.readouterr().out


def test_auto_takes_the_hub_where_it_answers(hub, monkeypatch):
    monkeypatch.setenv("VIT_SOURCE", "auto")
    assert runtime.start("classifier").source == "hub"


def test_one_notebook_never_mixes_the_sources(hasty, monkeypatch):
    monkeypatch.setenv("VIT_SOURCE", "auto")
    hasty.fault("503", where="cifar10")
    assert runtime.start("classifier", "cifar10").source == "offline"
    assert factories.classifier()[0].config.hidden_size == 192
    assert len(load("cifar10")["train"]) > 1000


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "there is no connection to 127.0.0.1"),
        ("503", "127.0.0.1 answered with status 503"),
        ("silent", "127.0.0.1 did not answer within 0.3 s"),
        ("page", "web page: log in to this network"),
    ],
)
def test_the_sentence_says_what_failed(hasty, fault, words):
    hasty.fault(fault)
    with pytest.raises(CourseError, match=words):
        runtime.start("classifier")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("drop", "the connection to 127.0.0.1 broke off"),
        ("stall", "did not answer within 0.3 s"),
        ("truncate", "status 416|ended early"),
        ("corrupt", "model.safetensors arrived damaged"),
        ("503", "status 503"),
    ],
)
def test_the_sentence_says_what_failed_in_the_middle(hasty, fault, words):
    hasty.fault(fault, where="safetensors")
    with pytest.raises(CourseError, match=words):
        runtime.start("classifier")


def test_a_revision_that_is_gone_is_said_and_not_tried_again(hub, monkeypatch):
    row = resources.get("cifar10")
    monkeypatch.setitem(resources.RESOURCES, "cifar10", replace(row, revision="0" * 40))
    with pytest.raises(CourseError, match="'cifar10'.*status 404"):
        runtime.start("cifar10")
    assert len(hub.log) == 1


def test_a_dead_name_server_does_not_hold_the_learner(hasty, monkeypatch):
    # `socket.create_connection(timeout=...)` does not bound the look-up of the name.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(20))
    monkeypatch.setenv("VIT_SOURCE", "auto")
    start = time.perf_counter()
    assert runtime.start("classifier").source == "offline"
    assert time.perf_counter() - start < QUICK


def test_a_hub_that_sends_a_byte_now_and_then_is_no_hub(hasty, monkeypatch):
    # Each byte comes before the time-out of the socket; only the whole is too slow.
    def drip(*args, **kwargs):
        time.sleep(20)

    monkeypatch.setattr(requests.Session, "request", drip)
    start = time.perf_counter()
    with pytest.raises(CourseError, match="did not answer within"):
        runtime.start("classifier")
    assert time.perf_counter() - start < QUICK


def test_longest_silence():
    # What the fixture `hasty` shortens.
    assert download.PROBE_SECONDS <= 3
    assert 2 * download.PROBE_SECONDS + download.PAUSE_SECONDS <= 8  # VIT_SOURCE=hub, nobody there
    assert download.TRIES * download.STALL_SECONDS + download.PAUSE_SECONDS <= 15  # in a download


def test_the_real_probe_takes_at_most_three_seconds(hub, monkeypatch):
    monkeypatch.setattr(download, "PROBE_SECONDS", 3.0)
    monkeypatch.setenv("VIT_SOURCE", "auto")
    hub.fault("silent")
    start = time.perf_counter()
    assert runtime.start(*EVERYTHING).source == "offline"
    assert time.perf_counter() - start < 3.0 + 1.0


# A machine or a user's settings that are not in order: variables, and words of the sentence.
SETTINGS = {
    "certificates are gone": (
        {"REQUESTS_CA_BUNDLE": "/nope/ca.pem", "HF_ENDPOINT": "https://127.0.0.1:9"}, "/nope/ca.pem"
    ),
    "a token with a stray letter": ({"HF_TOKEN": "hf_…"}, "HF_TOKEN has a letter"),
    "a token in two lines": ({"HF_TOKEN": "hf_a\nb"}, "HF_TOKEN has a letter"),
    "an empty file in the cache": ({}, "there is no connection to 127.0.0.1"),
    "no home folder": ({"VIT_CACHE": ""}, "there is no connection to 127.0.0.1"),
    "the Hub is forbidden": ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1 forbids"),
    "no https": ({"HF_ENDPOINT": "hf-mirror.com"}, "HF_ENDPOINT is 'hf-mirror.com'"),
    "no address": ({"HF_ENDPOINT": "http://[::1"}, "HF_ENDPOINT"),
    "no such port": ({"HF_ENDPOINT": "http://127.0.0.1:99999"}, "HF_ENDPOINT"),
    "a proxy that is none": ({"HTTP_PROXY": "http://[::1", "no_proxy": ""}, "a proxy is not"),
    "a relative cache": ({"HF_HOME": "relative", "HF_DATASETS_CACHE": ""}, "no connection"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_out_of_order_are_one_sentence_and_the_kit(
    hasty, name, monkeypatch, tmp_path, capsys
):
    variables, words = SETTINGS[name]
    monkeypatch.chdir(tmp_path)
    runtime.quiet(offline=False)  # an earlier test may have forbidden the Hub
    if "no connection" in words:
        hasty.refuse()
    if name == "an empty file in the cache":
        folder = tmp_path / "cache" / store.folder_name(resources.get("classifier"))
        folder.mkdir(parents=True)
        (folder / store.LIST).touch()
    if name == "no home folder":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        monkeypatch.setattr(runtime.tempfile, "gettempdir", lambda: str(tmp_path))

    def order(source):
        for variable, value in {"VIT_SOURCE": source, **variables}.items():
            monkeypatch.setenv(variable, value)

    order("auto")
    assert runtime.start("classifier", "cifar10").source == "offline"
    shown = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("NOTE: ") for line in shown) == 1 and words in shown[-1]
    assert len(load("cifar10")["test"]) > 0
    order("hub")
    with pytest.raises(CourseError, match=re.escape(words)):
        runtime.start("classifier")
    order("auto")
    assert __main__.main(["doctor"]) == 0
    assert "run from the offline kit" in capsys.readouterr().out
    order("auto")
    assert __main__.main(["prefetch", "--to", str(tmp_path / "stick")]) == 2
    assert words in capsys.readouterr().err
    assert not hasty.log


# --- broken off, resumed, damaged ----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "stall", "503"])
def test_one_short_break_is_bridged_and_the_download_continued(hasty, fault):
    hasty.fault(fault, where="/cdn/.*safetensors", after=1, times=1)  # HEAD is the first
    runtime.start("classifier")
    factories.classifier()
    tries = [request for request in hasty.log if request.startswith("GET /cdn/")]
    assert len(tries) == 2


def test_a_download_that_broke_off_goes_on_where_it_stopped(hasty, tmp_path, monkeypatch):
    fault = hasty.fault("drop", where="/cdn/.*safetensors")
    with pytest.raises(CourseError):
        runtime.start("classifier")
    assert partial_files(tmp_path) == ["model.safetensors.part"]
    hasty.repair()
    assert fault.seen >= 2
    ranges, ask = [], requests.Session.request

    def noted(session, method, url, headers, **how):
        ranges.append(headers.get("Range"))
        return ask(session, method, url, headers=headers, **how)

    monkeypatch.setattr(requests.Session, "request", noted)
    runtime.start("classifier")
    assert set(filter(None, ranges)) == {ranges[-1]}
    assert partial_files(tmp_path) == []
    factories.classifier()


def test_a_server_that_cannot_continue_is_asked_from_the_beginning(hasty, monkeypatch):
    hasty.fault("drop", where="/cdn/.*safetensors", times=1)
    ask = requests.Session.request

    def forgetful(session, method, url, headers, **how):
        return ask(session, method, url, headers=headers | {"Range": None}, **how)

    monkeypatch.setattr(requests.Session, "request", forgetful)
    runtime.start("classifier")
    factories.classifier()


def test_after_n_requests_the_hub_goes_and_what_was_whole_is_kept(hasty):
    hasty.fault("503", after=6)  # four questions, config.json and preprocessor_config.json
    with pytest.raises(CourseError):
        runtime.start("classifier")
    hasty.repair()
    before = len(hasty.log)
    runtime.start("classifier")
    again = hasty.log[before:]
    assert not [r for r in again if r.startswith("GET") and "config.json" in r]
    assert [request for request in again if "safetensors" in request]


def test_a_rotten_beginning_is_thrown_away(hub, tmp_path):
    folder = tmp_path / "cache" / store.folder_name(resources.get("classifier"))
    folder.mkdir(parents=True)
    (folder / "model.safetensors.part").write_bytes(b"nonsense")
    runtime.start("classifier")
    factories.classifier()


@pytest.mark.parametrize("damage", ["truncated", "one byte", "missing"])
@pytest.mark.parametrize(
    ("resource", "file"),
    [
        ("classifier", "model.safetensors"),
        ("classifier", "config.json"),
        ("cifar10", "plain_text/test-00000-of-00001.parquet"),
        ("photo", "photo"),
    ],
)
def test_a_damaged_file_in_the_cache_is_never_loaded(hasty, resource, file, damage, monkeypatch):
    runtime.start(resource)
    path = find(resource) / file
    whole = path.read_bytes()
    spoil(path, damage)
    load(resource)  # brings it again
    assert path.read_bytes() == whole
    spoil(path, damage)
    hasty.refuse()
    with pytest.raises(CourseError, match=f"'{resource}'.*could not be downloaded"):
        load(resource)
    monkeypatch.setenv("VIT_SOURCE", "auto")
    assert runtime.start(resource).source == "offline"


def spoil(path, damage):
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "one byte":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_two_notebooks_that_start_together_download_once(hub):
    import threading

    errors = []

    def start():
        try:
            resources.bring(["classifier"], runtime.settings())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len([r for r in hub.log if "GET /cdn/" in r]) == 1


# --- mirrors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "corrupt", "drop"])
def test_flowers_come_from_the_hub_where_their_authors_fail(hasty, fault):
    hasty.fault(fault, where="mirror/102")
    runtime.start("flowers102")
    flowers = load("flowers102")
    assert {s: len(d) for s, d in flowers.items()} == {"train": 102, "validation": 102, "test": 204}
    assert [request for request in hasty.log if "dpdl-benchmark" in request]


def test_flowers_come_from_their_authors(hasty, tmp_path):
    import io
    import tarfile

    from torchvision.datasets import Flowers102

    runtime.start("flowers102")
    flowers = load("flowers102")
    assert {s: len(d) for s, d in flowers.items()} == {"train": 102, "validation": 102, "test": 204}
    # The same pictures and labels as torchvision reads from the same files.
    root = tmp_path / "tv" / "flowers-102"
    root.mkdir(parents=True)
    for name in ("imagelabels.mat", "setid.mat"):
        (root / name).write_bytes(hasty.files[f"/mirror/{name}"])
    with tarfile.open(fileobj=io.BytesIO(hasty.files["/mirror/102flowers.tgz"])) as archive:
        archive.extractall(root, filter="data")

    class Unchecked(Flowers102):
        def _check_integrity(self):
            return True

    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = Unchecked(root.parent, theirs)
        assert flowers[split]["label"][:] == expected._labels
        assert data.class_names(flowers[split]) == list(Flowers102.classes)
        for i in (0, 50, 101):
            assert flowers[split][i]["image"].tobytes() == expected[i][0].tobytes()
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_the_other_place_is_not_asked_where_the_first_delivers(hub):
    runtime.start("flowers102", "photo")
    assert not [r for r in hub.log if "dpdl-benchmark" in r or "000000039769.png" in r]


@pytest.mark.parametrize("fault", ["503", "drop", "silent"])
def test_the_photo_has_a_mirror_too(hasty, fault):
    hasty.fault(fault, where="/photos/")
    runtime.start("photo")
    assert images.load_image().size == (64, 48)


def test_a_damaged_mirror_is_refused(hasty):
    hasty.fault("503", where="dpdl-benchmark")
    hasty.fault("corrupt", where="tgz")
    with pytest.raises(CourseError, match="'flowers102'.*102flowers.tgz arrived damaged"):
        runtime.start("flowers102")


# --- disk ----------------------------------------------------------------------------------------


def test_free_disk_is_checked_before_the_first_byte(hub, monkeypatch):
    usage = types.SimpleNamespace(total=10**9, used=10**9, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CourseError, match="classifier, cifar10 need .* has 1 MB left.*VIT_CACHE"):
        runtime.start("classifier", "cifar10")
    assert not [request for request in hub.log if request.startswith("GET")]


def test_the_disk_fills_up_all_the_same(hub, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(requests.Response, "iter_content", full)
    with pytest.raises(CourseError, match="'classifier'.*No space left on device"):
        runtime.start("classifier")


def test_no_place_can_be_written(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "file")
    with pytest.raises(CourseError, match="Nothing can be written to .*VIT_CACHE"):
        runtime.start("classifier")


def test_sizes_are_declared_for_every_resource():
    for row in resources.RESOURCES.values():
        assert row.size > 0
        assert row.files
        assert row.kind == "photo" or len(row.revision) == 40


# --- what the libraries have already -------------------------------------------------------------


def hub_cache(hub, name, tmp_path):
    """Lay the files of a resource as `huggingface_hub` does: blobs by digest, and links."""
    row = resources.get(name)
    prefix = "/" if row.kind == "model" else "/datasets/"
    base = f"{prefix}{row.hub_id}/resolve/{row.revision}/"
    repository = tmp_path / "hub" / (f"{row.kind}s--" + row.hub_id.replace("/", "--"))
    for path, content in hub.files.items():
        if path.startswith(base):
            lfs = path.endswith(hub_stand_in.LFS)
            digest = hub_stand_in.sha256(content) if lfs else hub_stand_in.git_id(content)
            blob = repository / "blobs" / digest
            link = repository / "snapshots" / row.revision / path.removeprefix(base)
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link.symlink_to(blob)
    return repository


@pytest.mark.parametrize("name", ["classifier", "cifar10", "flowers102"])
def test_what_the_libraries_have_cached_is_used(hub, name, tmp_path, monkeypatch):
    hub_cache(hub, name, tmp_path)
    forbid_network(monkeypatch)
    runtime.start(name)
    load(name)


def test_the_libraries_cache_is_not_trusted_blindly(hub, tmp_path):
    repository = hub_cache(hub, "classifier", tmp_path)
    blob = max((repository / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    spoil(blob, "truncated")
    assert find("classifier") is None
    runtime.start("classifier")
    factories.classifier()


def test_a_part_of_a_data_set_in_the_libraries_cache_is_not_the_whole(hub, tmp_path):
    repository = hub_cache(hub, "cifar10", tmp_path)
    file = next(repository.rglob("train-00000-of-00001.parquet"))
    file.rename(file.with_name("train-00000-of-00002.parquet"))
    assert find("cifar10") is None


# --- prefetch ------------------------------------------------------------------------------------


def test_prefetch_brings_all_and_says_how_to_use_it(hub, tmp_path, capsys):
    folder = tmp_path / "stick"
    assert __main__.main(["prefetch", "--to", str(folder)]) == 0
    shown = capsys.readouterr().out
    for name in EVERYTHING:
        assert name in shown
    assert "together" in shown
    assert f"VIT_CACHE={folder}" in shown
    assert not [p for p in folder.rglob("*") if p.is_symlink()]
    before = len(hub.log)
    assert __main__.main(["prefetch", "--to", str(folder)]) == 0
    assert len(hub.log) == before


def test_prefetch_goes_on_after_a_break(hasty, tmp_path, capsys):
    hasty.fault("drop", where="/cdn/.*flowers102")
    hasty.fault("503", where="mirror")
    assert __main__.main(["prefetch", "--to", str(tmp_path / "stick")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'flowers102'")
    assert "Traceback" not in error
    hasty.repair()
    before = len(hasty.log)
    assert __main__.main(["prefetch", "--to", str(tmp_path / "stick")]) == 0
    again = [request for request in hasty.log[before:] if request.startswith("GET")]
    assert again and not [r for r in again if "cifar10" in r or "vit-base" in r]


def test_prefetch_copies_what_is_on_this_machine(hub, tmp_path, monkeypatch, capsys):
    runtime.start(*EVERYTHING)
    forbid_network(monkeypatch)
    assert __main__.main(["prefetch", "--to", str(tmp_path / "stick")]) == 0
    assert "copying classifier" in capsys.readouterr().out


def test_the_folder_serves_a_room_read_only(hub, tmp_path, monkeypatch):
    folder, copied = tmp_path / "stick", tmp_path / "share"
    __main__.main(["prefetch", "--to", str(folder)])
    shutil.copytree(folder, copied)
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    def state():
        paths = sorted(copied.rglob("*"))
        return [(p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths]

    before = state()
    for path, *_ in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    forbid_network(monkeypatch)
    monkeypatch.setenv("VIT_CACHE", str(copied))
    monkeypatch.setenv("VIT_SOURCE", "auto")
    assert runtime.start(*EVERYTHING).source == "hub"
    for name in EVERYTHING:
        load(name)
    assert state() == before
    for path, *_ in before:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_what_a_read_only_folder_lacks_goes_to_the_home_folder(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "file" / "share"))  # cannot be made
    runtime.start("photo")
    assert find("photo") == tmp_path / "home" / ".cache" / "vit-helpers" / "photo"


# --- doctor --------------------------------------------------------------------------------------


def doctor_page(capsys) -> tuple[int, str]:
    status = __main__.main(["doctor"])
    return status, capsys.readouterr().out


def test_doctor_on_a_machine_with_a_hub(hub, capsys):
    status, page = doctor_page(capsys)
    assert status == 0
    for topic in ("Python", "libraries", "CPU", "memory", "disk", "Hub", "kit", "widgets"):
        assert f"  {topic}" in page
    assert "ok    Hub" in page
    assert "note  classifier  not here (346 MB)" in page
    assert "python -m vit_helpers prefetch" in page
    assert "download what is missing" in page
    assert len(page.splitlines()) <= 40


def test_doctor_without_a_network(hasty, capsys, monkeypatch):
    hasty.refuse()
    status, page = doctor_page(capsys)
    assert status == 1  # VIT_SOURCE=hub
    assert "FAIL  notebooks   lack classifier, cifar10, flowers102, photo" in page
    monkeypatch.setenv("VIT_SOURCE", "auto")
    status, page = doctor_page(capsys)
    assert status == 0
    assert "run from the offline kit" in page
    monkeypatch.setattr(resources, "KIT", Path("nowhere"))
    status, page = doctor_page(capsys)
    assert status == 1
    assert "FAIL  notebooks   have nothing to run from" in page


def test_doctor_with_everything_here(hasty, capsys):
    runtime.start(*EVERYTHING)
    hasty.refuse()
    status, page = doctor_page(capsys)
    assert status == 0
    assert "run from the Hub's files on this machine" in page


def test_doctor_names_what_is_missing_too_old_or_broken(hub, capsys, monkeypatch):
    def version(name):
        if name == "scikit-learn":
            raise doctor.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else "99"

    monkeypatch.setattr(doctor.metadata, "version", version)
    status, page = doctor_page(capsys)
    assert status == 1
    assert "scikit-learn>=1.5 is missing" in page
    assert "torch>=2.7 is needed, there is 1.0" in page


# --- for the day there is a network --------------------------------------------------------------


@pytest.fixture
def real_hub(monkeypatch):
    monkeypatch.setenv("VIT_SOURCE", "hub")
    with runtime.override(None):
        yield


@pytest.mark.network
def test_published_logits_of_the_cats(real_hub):
    """transformers, tests/models/vit: `test_inference_image_classification_head`."""
    from transformers import ViTImageProcessorPil

    runtime.start("classifier", "photo")
    model, _ = factories.classifier()
    processor = ViTImageProcessorPil.from_pretrained(runtime.current().locate("classifier"))
    logits = models.logits_of(model.cpu(), processor, images.load_image())[0]
    expected = torch.tensor([-0.2744, 0.8215, -0.0836])
    torch.testing.assert_close(logits[:3], expected, rtol=2e-4, atol=2e-4)
    assert models.top_classes(logits, model)[0][0] == "Egyptian cat"


@pytest.mark.network
def test_label_order_of_the_published_model(real_hub):
    runtime.start("classifier")
    model, _ = factories.classifier()
    assert len(model.config.id2label) == 1000
    assert model.config.id2label[281] == "tabby, tabby cat"
    assert model.config.id2label[207] == "golden retriever"


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "sizes", "labels"),
    [
        ("cifar10", {"train": 50_000, "test": 10_000}, {1: "automobile", 6: "frog"}),
        (
            "flowers102",
            {"train": 1020, "validation": 1020, "test": 6149},
            {76: "passion flower", 73: "rose"},
        ),
    ],
)
def test_one_batch_of_each_published_data_set(real_hub, name, sizes, labels):
    runtime.start("classifier", name)
    loaded = load(name)
    assert {split: len(part) for split, part in loaded.items()} == sizes
    names = data.class_names(loaded["train"])
    assert {i: names[i] for i in labels} == labels
    some = loaded["train"].select(range(8))
    pictures = data.PictureSet(some, data.eval_transform(factories.processor()))
    pixels, found = next(iter(data.loader(pictures, 8)))
    assert pixels.shape == (8, 3, 224, 224)
    assert found.tolist() == some["label"][:]


@pytest.mark.network
def test_the_mirrors_are_where_the_table_says(real_hub, tmp_path):
    for name in ("photo", "flowers102"):
        for file in resources.get(name).mirror:
            path = tmp_path / file.path
            download.to_file(file.url, path, runtime.bar(unit="B"), file.size, file.digest)
            assert file.size in (None, path.stat().st_size)
    images.load_image(tmp_path / "photo")

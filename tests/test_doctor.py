"""The doctor's page, line by line, on machines that are not this one.

The Hub, the cache and the verdict are tried in test_hub.py, against its stand-in.
"""

import os
import sys
import types

import psutil
import pytest
import torch

from vit_helpers import resources
from vit_helpers.cli import doctor
from vit_helpers.errors import CourseError

GIB = 2**30
HERE = doctor.Line("ok", "Hub", "answers")
AWAY = doctor.Line("note", "Hub", "there is no connection to huggingface.co")


def test_every_line_that_is_not_good_has_a_remedy_and_the_page_is_one(monkeypatch):
    reason = "there is no connection to huggingface.co"
    monkeypatch.setattr(resources, "hub_answers", lambda settings: reason)
    lines = doctor.examine()
    assert all(line.fix for line in lines if line.state != "ok")
    page = doctor.page(lines).splitlines()
    assert len(page) <= 45 and max(map(len, page)) <= 100


# --- the GPU -------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """A card that computes, with 14 of 15 GiB free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (14 * GIB, 15 * GIB))
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device=None: ones(*size))


@pytest.mark.parametrize("native", [True, False])
def test_a_card_and_its_number_format(card, monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    line = doctor.device()
    assert line.state == "ok"
    assert line.text.startswith("Tesla T4, 14.0 of 15.0 GiB free, ")
    assert ("no bf16 in hardware" in line.text) != native


def test_a_card_that_others_have_filled(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 * GIB, 15 * GIB))
    assert doctor.device().state == "note"


def test_a_card_that_this_build_has_no_programs_for(card, monkeypatch):
    def fails(*size, device=None):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch, "ones", fails)
    line = doctor.device()
    assert line.state == "fail"
    assert line.text == "Tesla T4 does not compute: CUDA error: no kernel image is available"
    assert "a build of torch for this card" in line.fix


@pytest.mark.parametrize(
    ("cuda", "says"), [(None, "install the CUDA build"), ("13.0", "update the driver")]
)
def test_a_card_that_torch_does_not_see(monkeypatch, cuda, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert says in doctor.device().fix


@pytest.mark.parametrize("available", [True, False])
def test_apple(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "arm64")
    line = doctor.device()
    assert ("MPS, fp32" in line.text) == available
    assert bool(line.fix) != available


# --- the CPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("able", "state", "text"),
    [
        ({"amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni"}, "ok",
         "bf16: amx_bf16, avx512_bf16; int8: amx_int8, avx512_vnni"),
        ({"avx512_vnni"}, "note", "bf16: not in hardware; int8: avx512_vnni"),
        ({"avx_vnni"}, "note", "bf16: not in hardware; int8: avx_vnni"),
        ({"bf16", "i8mm", "dot"}, "ok", "bf16: bf16; int8: i8mm, dot"),
        ({"avx2"}, "note", "bf16: not in hardware; int8: not in hardware"),
    ],
)  # fmt: skip
def test_what_a_cpu_has_in_hardware(monkeypatch, able, state, text):
    abilities = dict.fromkeys(able, True) | {"cpu_name": "Some CPU", "sse": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    cpu, formats = doctor.processor()
    assert cpu.text.startswith("Some CPU, ")
    assert (formats.state, formats.text) == (state, text)
    assert bool(formats.fix) == (state == "note")


def test_a_torch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert "cannot tell" in doctor.processor()[1].text


@pytest.mark.parametrize(
    ("threads", "cores", "says"),
    [(2, 2.0, ""), (16, 2.0, "OMP_NUM_THREADS=2"), (1, 8.0, "unset OMP_NUM_THREADS"), (1, 0.5, "")],
)
def test_threads_and_cores(monkeypatch, threads, cores, says):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(doctor, "usable_cores", lambda: cores)
    line = doctor.processor()[0]
    assert says in line.fix and bool(line.fix) == bool(says) == (line.state == "note")


def test_a_container_may_use_a_part_of_its_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    machine = types.SimpleNamespace(available=500 * GIB, total=512 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert doctor.usable_cores() == 64
    assert doctor.memory().text == "500.0 of 512.0 GiB free"
    for name, text in (
        ("cpu.max", "150000 100000"), ("memory.max", str(2 * GIB)), ("memory.current", str(GIB))
    ):  # fmt: skip
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    assert doctor.usable_cores() == 1.5
    line = doctor.memory()
    assert line.state == "note"
    assert line.text == "1.0 of 2.0 GiB free (the limit of this container)"
    assert "give the container more" in line.fix
    # What was read from files is given back when somebody wants it.
    (tmp_path / "memory.stat").write_text(f"file 1\ninactive_file {GIB // 2}\n", encoding="utf-8")
    assert doctor.memory().text.startswith("1.5 of 2.0 GiB free")
    (tmp_path / "cpu.max").write_text("max 100000", encoding="utf-8")
    (tmp_path / "memory.max").write_text("max", encoding="utf-8")
    assert doctor.usable_cores() == 64
    assert doctor.memory().state == "ok"


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2.5), ("-1", 64)])
def test_a_container_of_the_older_kind(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(doctor, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    (tmp_path / "cpu").mkdir()
    for part, number in (("quota", quota), ("period", "100000")):
        (tmp_path / "cpu" / f"cpu.cfs_{part}_us").write_text(number + "\n", encoding="utf-8")
    assert doctor.usable_cores() == cores


# --- files and network ---------------------------------------------------------------------------


def test_where_nothing_may_be_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "share" / "vit"))
    assert doctor.writing().state == "ok"

    def refused(dir):
        raise PermissionError

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    line = doctor.writing()
    assert line.state == "note" and line.text == f"not in {tmp_path} and {tmp_path}"
    assert "VIT_CACHE" in line.fix


@pytest.fixture
def bare(monkeypatch):
    for name in (*doctor.CERTIFICATES, "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor.urllib.request, "getproxies", dict)


def test_where_the_hub_answers_nothing_is_said_about_the_way(bare):
    assert doctor.way_out(HERE) == []


def test_without_a_proxy_and_without_a_hub(bare):
    (line,) = doctor.way_out(AWAY)
    assert (line.topic, line.text) == ("proxy", "none is set") and "HTTPS_PROXY" in line.fix


def test_a_proxy_is_named_without_its_password(bare, monkeypatch):
    proxies = {"https": "http://ada:secret@proxy.example.org:3128"}
    monkeypatch.setattr(doctor.urllib.request, "getproxies", lambda: proxies)
    for hub in (HERE, AWAY):
        (line,) = doctor.way_out(hub)
        assert line.text == "proxy.example.org:3128" and line.state == hub.state
        assert "secret" not in line.text + line.fix


@pytest.mark.parametrize("proxy", ["http://[::1", "gar bage", "://", "http://ada:secret@[::1/"])
def test_a_proxy_that_is_not_well_formed_is_named(bare, monkeypatch, proxy):
    monkeypatch.setattr(doctor.urllib.request, "getproxies", lambda: {"https": proxy})
    (line,) = doctor.way_out(AWAY)
    assert line.topic == "proxy" and line.fix and "secret" not in line.text


def test_certificates_that_are_not_there_or_not_trusted(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    (line,) = doctor.way_out(HERE)
    assert line.text == f"SSL_CERT_FILE: there is no {tmp_path / 'none.pem'}" and line.fix
    monkeypatch.delenv("SSL_CERT_FILE")
    bad = doctor.Line("note", "Hub", "there is no secure connection to huggingface.co")
    line = doctor.way_out(bad)[-1]
    assert line.topic == "certificates" and "REQUESTS_CA_BUNDLE" in line.fix


@pytest.mark.parametrize("name", ["VIT_SEED", "VIT_PICTURES", "VIT_SOURCE", "VIT_BARS"])
def test_a_variable_out_of_range_is_no_good_verdict(monkeypatch, name):
    monkeypatch.setenv(name, "-1")
    with pytest.raises(CourseError, match=f"{name} is '-1'"):
        doctor.verdict(HERE, HERE, [], HERE)


def test_libraries_that_do_not_start_name_the_first_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import fails
    (line,) = doctor.libraries()
    assert line.state == "fail" and "torchvision" in line.text and line.fix


def test_where_the_course_is_not_installed(monkeypatch):
    def requires(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    (line,) = doctor.libraries()
    assert line.text == "the course is not installed" and line.fix

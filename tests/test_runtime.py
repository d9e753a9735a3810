import importlib
import os
import subprocess
import sys

import factories
import pytest

from vit_helpers import data, runtime
from vit_helpers.errors import OLD_NAMES, CourseError


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("VIT_SOURCE", "internet", "'auto', 'hub', 'offline'"),
        ("VIT_PROFILE", "fast", "'quick', 'full'"),
        ("VIT_BARS", "yes", "'on', 'off'"),
        ("VIT_PICTURES", "0", "a whole number from 1"),
        ("VIT_PICTURES", "few", "a whole number from 1"),
    ],
)
def test_unknown_value_of_a_variable_is_named_with_the_allowed_ones(
    monkeypatch, variable, value, allowed
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(CourseError, match=f"{variable} is '{value}'.*{allowed}"):
        runtime.start()


@pytest.mark.parametrize("seed", ["-1", "1.5", "one", ""])
def test_seed_must_be_a_whole_number(monkeypatch, seed):
    monkeypatch.setenv("VIT_SEED", seed)
    with pytest.raises(CourseError, match="VIT_SEED is"):
        runtime.start()


def test_banner_says_what_the_run_uses_and_no_notice_when_offline_is_asked_for(capsys):
    rt = runtime.start("classifier")
    shown = capsys.readouterr().out
    assert "profile quick · seed 0\nsource offline" in shown
    assert "transformers" in shown
    assert "NOTE" not in shown
    assert rt.pick(quick=1, full=2) == 1


def test_the_same_seed_gives_the_same_numbers():
    import torch

    runtime.seed_everything(7)
    first = torch.rand(3)
    runtime.seed_everything(7)
    assert torch.equal(first, torch.rand(3))


def test_current_before_setup_says_what_to_do(rt):
    with runtime.override(None), pytest.raises(CourseError, match="set-up cell"):
        runtime.current()
    assert runtime.current() is rt


def test_a_bar_asks_a_loader_for_its_batches_once():
    class Loader:
        asked = 0

        def __len__(self):
            return 3

        def __iter__(self):
            self.asked += 1  # workers would start here
            return iter("abc")

    loader = Loader()
    bar = runtime.bar(loader)
    assert bar.total == 3
    assert list(bar) == list("abc")
    assert loader.asked == 1


def test_a_terminal_of_ascii_is_no_error():
    code = "from vit_helpers import errors; errors.show_sentences(); print('a · 猫')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert run.stdout.split() == [b"a", b"?", b"?"] and run.returncode == 0


def test_bars_are_silent_under_test(capfd):
    assert list(runtime.bar(range(3), "count")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_an_error_is_shown_as_one_sentence_without_a_traceback():
    assert CourseError("Do this.")._render_traceback_() == ["CourseError: Do this."]


def test_importing_the_package_does_not_import_torch_or_transformers():
    code = (
        "import sys, vit_helpers;"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy', 'pandas', 'PIL'};"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("old", OLD_NAMES)
def test_a_name_of_the_first_edition_says_in_a_sentence_what_to_use_now(old):
    module, _, name = f"vit_helpers.{old}".rpartition(".")
    with pytest.raises(CourseError, match=rf"{old} is gone; in its place: \S.*\.$"):
        getattr(importlib.import_module(module), name)
    assert not hasattr(importlib.import_module(module), "never_was")


def test_show_source_shows_the_code():
    from vit_helpers import show_source

    assert "def bar(" in show_source(runtime.bar).data


def test_vit_pictures_limits_every_split_whatever_was_asked_for(rt, monkeypatch):
    split = factories.load_dataset("cifar10")["train"]
    monkeypatch.setenv("VIT_PICTURES", "20")
    assert [len(data.balanced_subset(split, count)) for count in (10, 50, None)] == [10, 20, 20]

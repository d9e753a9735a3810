"""The learner's tasks: solutions pass, typical mistakes get their message, nonsense is survived."""

import csv
import io
import json
import random
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import factories
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.stats import binomtest

from course import editions, runner
from vit_helpers import __main__, efficiency, images, models, runtime, tasks, training
from vit_helpers.errors import CourseError
from vit_helpers.tasks import core

BY_NAME = {task.__name__: task for task in tasks.ALL}


@pytest.fixture(scope="module")
def notebook():
    """The names that the cells of the tasks find in the notebooks."""
    runtime.start("classifier", "cifar10", "photo")
    model, processor = factories.classifier("eager")
    photo = images.load_image()
    pixels = processor(images=photo, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        outputs = model(pixel_values=pixels, output_attentions=True)
    generator = torch.Generator().manual_seed(0)
    frozen = models.load_with_new_head([str(i) for i in range(102)])
    models.freeze(frozen, 8)
    return {
        "torch": torch,
        "np": np,
        "models": models,
        "training": training,
        "efficiency": efficiency,
        "tasks": tasks,
        "model": model,
        "processor": processor,
        "config": model.config,
        "photo": photo,
        "picture": photo,
        "pixels": pixels,
        "outputs": outputs,
        "logits": outputs.logits,
        "attn": torch.stack(outputs.attentions, dim=1),
        "heads": 12,
        "distance": torch.rand(12, 12, generator=generator) * 100,
        "train_part": range(210),
        "BATCH": 16,
        "EPOCHS": 3,
        "table": models.parameter_table(frozen),
        "frozen": frozen,
        "result": SimpleNamespace(
            logits=torch.randn(30, 102, generator=generator), labels=torch.arange(30)
        ),
        "weight": torch.randn(32, 32, generator=generator),
    }


# The cells before a task in its notebook give some names another meaning.
SPECIAL = {
    "Softmax": lambda names: {"logits": names["logits"][0]},
    "ParametersThatLearn": lambda names: {"model": names["frozen"]},
}


def names_for(name, notebook):
    return notebook | SPECIAL.get(name, lambda names: {})(notebook)


def make(name, notebook):
    task = BY_NAME[name]
    module = task.__module__.rpartition(".")[2]
    return eval(f"tasks.{module}.{task.make}", names_for(name, notebook))


def made(name, notebook, store={}):  # noqa: B006
    """A task that is made once: its truth may take a pass of the model."""
    if name not in store:
        store[name] = make(name, notebook)
    return store[name]


def run(code, task, notebook):
    names = dict(names_for(type(task).__name__, notebook))
    exec(code, names)
    return names[task.given()]


@pytest.mark.parametrize("name", BY_NAME)
class TestEveryTask:
    def test_the_stub_is_not_attempted_yet(self, name, notebook):
        task = make(name, notebook)
        assert task.verdict(run(task.stub, task, notebook)).state == core.NOT_ATTEMPTED

    def test_the_solution_is_right_and_the_check_is_quick(self, name, notebook):
        task = make(name, notebook)
        answer = run(task.solution_code, task, notebook)
        began = time.process_time()
        verdict = task.verdict(answer)
        assert verdict.state == core.RIGHT, verdict.message
        assert len(verdict.message.split()) >= 5
        assert time.process_time() - began < 3  # of the CPU; a notebook has four of them

    def test_its_text_is_complete(self, name, notebook):
        task = BY_NAME[name]
        assert 1 <= task.minutes <= 20
        assert task.difficulty in (core.EASY, core.MEDIUM, core.HARD)
        assert 2 <= len(task.hints) <= 3
        assert len(editions.learners_cell(task).splitlines()) <= 15
        assert task.solution_code.strip() not in task.question

    def test_stub_and_solution_take_the_same_arguments(self, name, notebook):
        task = BY_NAME[name]
        if "def " in task.stub:
            first = task.stub.strip().splitlines()[0]
            assert first in task.solution_code

    def test_a_right_answer_may_have_any_form(self, name, notebook):
        task = make(name, notebook)
        answer = run(task.solution_code, task, notebook)
        for form in forms(answer):
            verdict = task.verdict(form)
            assert verdict.state == core.RIGHT, (form, verdict.message)


def forms(answer):
    """The same answer as a tensor, an array, a list, a NumPy number."""
    if isinstance(answer, str):
        return [answer]
    if isinstance(answer, tuple):
        return [list(answer), np.array(answer), torch.tensor(answer), np.array([answer])]
    if not callable(answer):
        value = float(answer)
        return [value, np.float64(value), torch.tensor(value, dtype=torch.float64), [value]]
    convert = [
        lambda t: t.tolist() if isinstance(t, torch.Tensor) else t,
        lambda t: t.numpy() if isinstance(t, torch.Tensor) else t,
        lambda t: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t,
    ]
    return [lambda *args, to=to: to(answer(*args)) for to in convert]


def test_there_are_three_to_five_tasks_in_each_notebook_from_easy_to_hard():
    for stem in {task.notebook for task in tasks.ALL}:
        here = editions.of_notebook(stem)
        assert 3 <= len(here) <= 5
        assert {core.EASY, core.HARD} <= {task.difficulty for task in here}
        assert [task.number for task in here] == list(range(1, len(here) + 1))


# --- typical mistakes ----------------------------------------------------------------------------


def body(code):
    """A function from the code of its body; `A`, `B`, ... are its arguments."""
    names = {"torch": torch, "np": np, "models": models, "SIX": six_axes, "BINS": calibration}
    return lambda *args: eval(code, names | dict(zip("ABCDE", args, strict=False)))


def mistakes(chosen):
    """The most confident mistakes, where `chosen` is the last line of the solution."""

    def most_confident_mistakes(logits, labels, count):
        confidence, answers = logits.softmax(1).max(1)
        wrong = (answers != labels).nonzero().squeeze(1)
        order = confidence[wrong].argsort(descending=True)
        names = {"confidence": confidence, "wrong": wrong, "order": order, "A": logits}
        return eval(chosen, names)[:count]

    return most_confident_mistakes


def paired(binom="binomtest(only_a, coins, 0.5).pvalue", none="1.0"):
    def p_value(a, b):
        only_a, coins = int((a & ~b).sum()), int((a ^ b).sum())
        names = {"a": a, "only_a": only_a, "coins": coins, "binomtest": binomtest}
        return eval(binom if coins else none, names)

    return p_value


def step(divide=True, clear=True, move=True, clear_in_loop=False, move_in_loop=False, last=False):
    def step_in_parts(model, optimizer, pixels, labels, parts):
        total = 0.0
        if clear:
            optimizer.zero_grad()
        for some, classes in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
            if clear_in_loop or move_in_loop:
                optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixel_values=some).logits, classes)
            (loss / parts if divide else loss).backward()
            total += loss.item() / parts
            if move_in_loop:
                optimizer.step()
        if move and not move_in_loop:
            optimizer.step()
        return loss if last else total

    return step_in_parts


def rollout(heads="max", axis=-1, left=True, keep=0.5, early=False):
    def rollout_max(attn):
        mixed = torch.eye(attn.shape[-1])
        for layer in attn:
            a = layer.amax(0) if heads == "max" else layer.mean(0)
            a = a / a.sum(-1, keepdim=True) if early else a
            a = (1 - keep) * a + keep * torch.eye(len(mixed))
            a = a / a.sum(axis, keepdim=True) if axis else a
            mixed = a @ mixed if left else mixed @ a
        return mixed

    return rollout_max


def round_trip(axis=1, top=lambda bits: 2 ** (bits - 1) - 1, how="round", back=True):
    def quantise(weight, bits):
        size = weight.abs()
        scale = (size.max() if axis is None else size.amax(axis, keepdim=True)) / top(bits)
        whole = getattr(weight / scale, how)() if how else weight / scale
        return whole * scale if back else whole

    return quantise


def entropy(code):
    return body(f"(lambda p: {code})(A.clamp(min=1e-12))")


def six_axes(pixels, size):
    return pixels.unflatten(2, (-1, size)).unflatten(4, (-1, size))


def calibration(
    confidence, right, bins, weighted=True, absolute=True, worst=False, last=True, divide=False
):
    number = (confidence * bins).long()
    number = number.clamp(max=bins - 1) if last else number
    gaps, shares = [], []
    for b in number.unique():
        inside = number == b
        gaps.append(confidence[inside].mean() - right[inside].float().mean())
        shares.append(inside.float().mean())
    gaps, shares = torch.stack(gaps), torch.stack(shares)
    gaps = gaps.abs() if absolute else gaps
    gaps = gaps / len(gaps) if divide else gaps
    return gaps.max() if worst else (gaps * shares).sum() if weighted else gaps.mean()


def hiding(sign=1, keep=False, first=False, grey=0.0, copy=True):
    def hide(pixels, scores, count):
        flat = sign * (scores[:1].expand_as(scores) if first else scores).flatten(1)
        mask = torch.zeros_like(flat).scatter(1, flat.topk(count, dim=1).indices, 1.0)
        mask = torch.nn.functional.interpolate(mask.view_as(scores)[:, None], pixels.shape[-2:])
        if not copy:
            return pixels.mul_(1 - mask)
        return pixels * (mask if keep else 1 - mask) + grey * mask

    return hide


LOWEST = "A.topk(C, dim=1, largest=False).indices == B[:, None]"
TOP = "A.topk(C, dim=1).indices == B[:, None]"

# For each task: a wrong answer, and words of the message that is meant for it.
MISTAKES = {
    "CountTokens": [
        (576, "nothing but patches"),
        (197, "224 pixels"),
        (24, "one row"),
        (384 * 384, "single pixels"),
        (600, "too many"),
        (500.5, "whole number"),
    ],
    "CutPatches": [
        (body("A.reshape(len(A), -1, A.shape[1] * B * B)"), "order of memory"),
        (body("SIX(A, B).permute(0, 4, 2, 1, 3, 5).flatten(3).flatten(1, 2)"), "column by column"),
        (body("SIX(A, B).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)"), "change fastest"),
        (body("SIX(A, B).permute(0, 2, 4, 1, 5, 3).flatten(3).flatten(1, 2)"), "changed places"),
        (body("torch.nn.functional.unfold(A, B, stride=B)"), "pictures, patches, numbers"),
        (body("torch.nn.functional.unfold(A, B, stride=B).mT.flip(1)"), "in a wrong place"),
    ],
    "Softmax": [
        (body("(A * B).softmax(-1)"), "should make it less sure"),
        (body("A.softmax(-1)"), "Is the temperature used?"),
        (body("(A / B).exp()"), "do not sum to one"),
        (body("(A / B).sigmoid()"), "those of the sigmoid"),
        (body("(A / B).log_softmax(-1)"), "logarithms"),
        (body("(A / B).exp() / (A / B).exp().sum()"), "exp(1000) is infinite"),
        (body("((A - 1) / B).softmax(-1) * 0.9"), "shares sum to 0.9"),
    ],
    "CalibrationError": [
        (body("BINS(A, B, C, weighted=False)"), "counts the same"),
        (body("BINS(A, B, C, absolute=False)"), "cancel"),
        (body("(A.mean() - B.float().mean()).abs()"), "Are the bins used?"),
        (body("BINS(A, B, C, worst=True)"), "largest gap"),
        (body("BINS(A, B, C, divide=True)"), "once more"),
        (body("100 * BINS(A, B, C)"), "in percent"),
        (body("BINS(A, B, C, last=False)"), "but it is"),
    ],
    "CountSteps": [
        (14, "are one epoch"),
        (39, "leave 2 pictures out"),
        (630, "counts pictures"),
        (40, "across the end of an epoch"),
        (99, "too many"),
    ],
    "StepInParts": [
        (step(divide=False), "too far"),
        (step(clear=False), "the gradients of the first"),
        (step(move=False), "did not move"),
        (step(clear_in_loop=True), "only the last part counted"),
        (step(move_in_loop=True), "once for each part"),
        (step(last=True), "the loss of the whole batch is"),
    ],
    "ConfidentMistakes": [
        (mistakes("order"), "count within the wrong pictures"),
        (mistakes("wrong[confidence[wrong].argsort()]"), "least confident mistake comes first"),
        (mistakes("wrong[A.amax(1)[wrong].argsort(descending=True)]"), "sorted by the logit"),
        (mistakes("confidence.argsort(descending=True)"), "right answers are among them"),
        (mistakes("wrong"), "the first are"),
        (mistakes("wrong[order[:2]]"), "there are 5"),
        (lambda a, b, c: [0.5], "whole numbers"),
        (lambda a, b, c: 3, "a list of indices"),
        (lambda a, b, c: list(range(len(b))), "more than `count`"),
    ],
    "PicturesForInterval": [
        (0.35, "less than one"),
        (13830, "± counts on each side"),
        (864, "± 2.0"),
        (900, "68 % interval"),
        (2000, "too wide"),
        (3700, "± 0.97 points, too narrow"),
        (1e12, "more than anyone has"),
    ],
    "EntropyBits": [
        (entropy("-(p * p.log()).sum(-1)"), "in nats"),
        (entropy("(p * p.log2()).sum(-1)"), "not below zero"),
        (entropy("-(p * p.log10()).sum(-1)"), "base 10"),
        (entropy("-(p * p.log2()).mean(-1)"), "It is a sum"),
        (body("-(A * A.log2()).sum(-1)"), "0 * log(0)"),
        (entropy("2 ** -(p * p.log2()).sum(-1)"), "how many bits"),
        (entropy("-(p * p.log2()).sum()"), "each row has its own"),
        (body("A"), "one number for each row"),
    ],
    "FarthestHead": [
        (lambda d: d.argmax().item(), "counts through all layers"),
        (lambda d: divmod(d.argmax().item(), 12)[::-1], "in the wrong order"),
        (lambda d: divmod(d.argmin().item(), 12), "the nearest"),
        (lambda d: tuple(i + 1 for i in divmod(d.argmax().item(), 12)), "counts from one"),
        ((99, 99), "There is no (99, 99)"),
        ((1, 2, 3), "has 3 numbers"),
        ((0.5, 1), "two whole numbers"),
    ],
    "RolloutMax": [
        (rollout(heads="mean"), "heads were averaged"),
        (rollout(axis=-2), "sum of each column"),
        (rollout(axis=None), "should sum to one"),
        (rollout(left=False), "wrong order"),
        (rollout(keep=0.0), "where is the identity"),
        (rollout(early=True), "identity first, then divide"),
    ],
    "HidePatches": [
        (body("A"), "nothing was hidden"),
        (hiding(sign=-1), "least important"),
        (hiding(keep=True), "all that is left"),
        (hiding(first=True), "the patches of the first"),
        (hiding(grey=-1.0), "Grey is 0"),
        (hiding(copy=False), "Take a copy"),
        (body("A * (B.flatten(1).argsort(1)[:, :1, None, None] * 0 + 0.5)"), "what they should be"),
        (body("A[:, :1]"), "the shape of the pixels"),
    ],
    "ParametersThatLearn": [
        ("total", "the whole model"),
        ("frozen", "are frozen then"),
        ("block", "is one block"),
        ("no rest", "a small part"),
        ("no head", "learn from nothing"),
        ("two blocks", "if 2 blocks are left"),
    ],
    "PairedTest": [
        (paired(binom="binomtest(only_a, coins, 0.5, 'greater').pvalue"), "one-sided"),
        (paired(binom="binomtest(only_a, len(a), 0.5).pvalue"), "both say the same"),
        (paired(binom="binomtest(int(a.sum()), len(a), 0.5).pvalue"), "both say the same"),
        (paired(binom="100 * binomtest(only_a, coins, 0.5).pvalue"), "share from 0 to 1"),
        (paired(binom="0.5"), "too large"),
        (paired(none="0.0"), "nothing speaks for a difference"),
    ],
    "MergeLora": [
        (body("A + C @ B"), "should count alpha / r times"),
        (body("A + D * (C @ B)"), "Divide by r"),
        (body("A + B.shape[0] / D * (C @ B)"), "r / alpha times"),
        (body("D / B.shape[0] * (C @ B)"), "W is missing"),
        (body("A"), "W as it was"),
        (body("A + 7 * (C @ B)"), "largest difference"),
        (body("C @ B + A[:1]"), "largest difference"),
    ],
    "TopKAccuracy": [
        (body(f"100 * ({TOP}).any(1).float().mean()"), "in percent"),
        (body("(A.argmax(1) == B).float().mean()"), "is k used?"),
        (body(f"({TOP}).any(1).sum()"), "how many"),
        (body(f"({TOP}).float().mean()"), "divided by k"),
        (
            body(f"({LOWEST}).any(1).float().mean()"),
            "lowest",
        ),
        (body("0.999"), "too high"),
    ],
    "Quantise": [
        (round_trip(axis=None), "one scale for the whole"),
        (round_trip(axis=0), "a scale for each column"),
        (round_trip(how=None), "Nothing was rounded"),
        (round_trip(back=False), "What about their scale"),
        (round_trip(top=lambda bits: 2 ** (bits - 1)), "with a sign"),
        (round_trip(top=lambda bits: 2**bits - 1), "The sign takes a bit"),
        (round_trip(top=lambda bits: 127), "always 8 bits"),
        (round_trip(how="trunc"), "cut off"),
    ],
    "Floor": [
        (body("sum(n / B[k] for k, n in A.items())"), "Those are seconds"),
        (body("1e3 * max([n / B[k] for k, n in A.items()])"), "at the same time"),
        (body("1e3 * sum(A.values()) / max([B[k] for k in A])"), "the fastest format"),
        (body("1e3 * sum(A.values()) / min([B[k] for k in A])"), "the slowest format"),
        (body("1e3 * sum(B[k] / n for k, n in A.items())"), "the other way round"),
        (body("7"), "it should be"),
    ],
    "NameTheFaults": [
        ("batch conversions calibration preprocessing", "Look again at A and D"),
        ("batch batch batch batch", "every word stands there once"),
        ("batch calibration", "four patients"),
        ("quantisation", "none of the four"),
        (4, "a text of four words"),
    ],
    "PreparePicture": [
        (body("np.asarray(B(images=A)['pixel_values'][0])[::-1]"), "Red and blue"),
        (body("np.asarray(B(images=A)['pixel_values'][0]).transpose(1, 2, 0)"), "channels come"),
        (body("np.asarray(B(images=A)['pixel_values'])"), "a batch of one"),
        (body("np.asarray(B(images=A, do_normalize=False)['pixel_values'][0])"), "Mean and dev"),
        (
            body(
                "np.asarray(B(images=A, do_normalize=False, do_rescale=False)['pixel_values'][0])"
            ),
            "0 to 255",
        ),
        (
            body(
                "np.asarray(B(images=A, image_mean=[0.485, 0.456, 0.406], "
                "image_std=[0.229, 0.224, 0.225])['pixel_values'][0])"
            ),
            "ImageNet's",
        ),
        (body("np.asarray(B(images=A)['pixel_values'][0]) + 0.3"), "away from the processor"),
    ],
}


def fill_in(name, wrong, task):
    """Some wrong answers depend on the model or the data."""
    if name == "FarthestHead" and callable(wrong):
        return wrong(task.distance)
    if name == "ParametersThatLearn":
        truth = task.block + task.rest + task.head
        return {
            "total": task.total,
            "frozen": task.total - truth,
            "block": task.block,
            "no rest": truth - task.rest,
            "no head": truth - task.head,
            "two blocks": truth + task.block,
        }[wrong]
    return wrong


def test_every_task_has_at_least_three_typical_mistakes():
    assert set(MISTAKES) == set(BY_NAME)
    assert all(len(mistakes) >= 3 for mistakes in MISTAKES.values())


@pytest.mark.parametrize("name", BY_NAME)
def test_a_typical_mistake_gets_the_message_that_is_meant_for_it(name, notebook):
    task = make(name, notebook)
    for wrong, words in MISTAKES[name]:
        verdict = task.verdict(fill_in(name, wrong, task))
        assert verdict.state == core.WRONG, words
        assert words in verdict.message, (words, verdict.message)
        assert "cannot be checked" not in verdict.message


@pytest.mark.parametrize("name", BY_NAME)
def test_messages_do_not_give_the_answer_away(name, notebook):
    task = make(name, notebook)
    answer = run(task.solution_code, task, notebook)
    if callable(answer) or isinstance(answer, str):
        return
    for wrong, _ in MISTAKES[name]:
        message = task.verdict(fill_in(name, wrong, task)).message
        for form in {f"{float(v):g}" for v in np.ravel(answer)} if np.size(answer) == 1 else ():
            assert f" {form} " not in f" {message} ", message


# --- nonsense ------------------------------------------------------------------------------------


class Evil:
    """An object that fails whatever is done with it."""

    def fail(self, *args, **kwargs):
        raise RuntimeError("never touch me")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __float__ = __array__ = fail
    __getitem__ = __lt__ = __hash__ = fail


def nonsense():
    """Ten kinds of things that a learner, or a slip of the keyboard, can put there."""
    some_numbers = st.floats(width=32) | st.integers(-(10**30), 10**30) | st.complex_numbers()
    small = st_numpy.array_shapes(max_dims=3, max_side=4)
    arrays = st_numpy.arrays(st.sampled_from(["f4", "f8", "i8", "b1", "c8", "U3", "O"]), small)
    returned = st.none() | some_numbers | st.text(max_size=3) | arrays | arrays.map(tensor_of)
    return st.one_of(
        st.none() | st.booleans(),
        some_numbers | st.decimals() | st.fractions(),
        st.text() | st.binary(),
        st.lists(some_numbers | st.none() | st.text(max_size=2), max_size=5),
        st.dictionaries(st.text(max_size=2), some_numbers, max_size=2) | st.sets(st.integers()),
        arrays,
        arrays.map(tensor_of),
        returned.map(lambda value: lambda *args: value),
        st.sampled_from([ValueError, ZeroDivisionError, SystemExit, KeyboardInterrupt]).map(
            failing
        ),
        st.sampled_from([object(), int, [[1, 2], [3]], (...,), torch.nn.ReLU(), print]),
        st.sampled_from([float("nan"), [float("nan")], torch.tensor(float("nan")), float("inf")]),
    )


def tensor_of(array):
    if array.dtype.kind in "UO":
        return torch.zeros(array.shape, requires_grad=True)
    return torch.from_numpy(np.ascontiguousarray(array))


def failing(error):
    def function(*args):
        raise error("this goes wrong")

    return function


@pytest.mark.parametrize("name", BY_NAME)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(answer=nonsense())
def test_nonsense_is_survived_and_answered_in_a_sentence(name, notebook, answer):
    task = made(name, notebook)
    verdict = task.verdict(answer)
    assert verdict.state in (core.WRONG, core.NOT_ATTEMPTED, core.RIGHT)
    assert 3 <= len(verdict.message.split()) <= 80
    # An error inside of a check would be ours.
    assert "cannot be checked" not in verdict.message, answer


@pytest.mark.parametrize("name", BY_NAME)
def test_an_object_that_fails_whatever_is_done_with_it_is_survived(name, notebook):
    task = made(name, notebook)
    for answer in (Evil(), [Evil()], lambda *args: Evil()):
        assert task.verdict(answer).state == core.WRONG


@pytest.mark.parametrize("name", [n for n, task in BY_NAME.items() if "def " in task.stub])
def test_an_error_of_the_learners_function_is_quoted(name, notebook):
    verdict = make(name, notebook).verdict(failing(ValueError))
    assert "raised ValueError: this goes wrong" in verdict.message


@pytest.mark.parametrize("name", [n for n, task in BY_NAME.items() if "def " in task.stub])
def test_a_function_with_no_arguments_is_told_so(name, notebook):
    verdict = make(name, notebook).verdict(lambda: 1)
    assert "raised TypeError" in verdict.message and "0 positional arguments" in verdict.message


def test_a_function_that_never_returns_is_stopped(notebook):
    task = make("Softmax", notebook)
    task.limit_seconds = 0.3
    ended = []

    def forever(logits, temperature):
        try:
            while True:
                pass
        finally:
            ended.append(True)

    began = time.monotonic()
    verdict = task.verdict(forever)
    assert verdict.state == core.WRONG
    assert "did not return within 0.3 seconds" in verdict.message
    assert "background" not in verdict.message
    assert ended and time.monotonic() - began < 5


def test_a_function_that_cannot_be_stopped_is_left_and_said_so(notebook):
    if sys.gettrace():  # coverage; then Python 3.11 itself waits in each call for the other thread
        pytest.skip("a thread that sleeps cannot be left under a tracer")
    task = make("Softmax", notebook)
    task.limit_seconds = 0.2
    verdict = task.verdict(lambda logits, temperature: time.sleep(60))
    assert "restart the kernel" in verdict.message


def test_an_object_whose_repr_never_ends_is_stopped(notebook):
    class Endless:
        def __repr__(self):
            while True:
                pass

    task = make("CountTokens", notebook)
    task.limit_seconds = 0.3
    assert "did not return within" in task.verdict(Endless()).message


def test_a_function_may_change_its_arguments_and_the_notebook_keeps_its_own(notebook):
    task = make("Softmax", notebook)
    before = task.logits.clone()

    def in_place(logits, temperature):
        return logits.sub_(logits.max().item()).div_(temperature).softmax(dim=-1)

    assert task.verdict(in_place).state == core.RIGHT
    assert task.logits.equal(before)


def test_checks_leave_the_random_numbers_of_the_notebook_alone(notebook):
    for name in ("StepInParts", "ConfidentMistakes", "MergeLora"):
        task = make(name, notebook)
        answer = run(task.solution_code, task, notebook)
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        task.verdict(answer)
        after = torch.rand(1), random.random(), np.random.rand()
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        assert after == (torch.rand(1), random.random(), np.random.rand())


# --- what the learner calls ----------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """No task has been made yet."""
    monkeypatch.setattr(core, "records", {})
    monkeypatch.setattr(tasks, "records", core.records)


def test_check_prints_one_line_with_the_learners_own_value(fresh, notebook, capsys):
    task = make("CountTokens", notebook)
    task.check(...)
    task.check(576)
    task.check(Fraction(577))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("○ Task 01.1: not attempted yet.") and "q1.hint()" in lines[0]
    assert lines[1].startswith("✗ Task 01.1: not yet. 576")
    assert lines[2].startswith("✓ Task 01.1: right.")


def test_hints_say_more_each_time_and_then_point_at_the_solution(fresh, notebook, capsys):
    task = make("CountTokens", notebook)
    for _ in range(4):
        task.hint()
    shown = capsys.readouterr().out
    assert all(hint in shown for hint in task.hints)
    assert "q1.solution()" in shown.splitlines()[-1]
    assert task.solution().data == task.solution_code


@pytest.mark.parametrize("first, words", [(576, "right (after the solution"), (577, "right.")])
def test_a_solution_that_was_shown_before_is_mentioned(fresh, notebook, capsys, first, words):
    task = make("CountTokens", notebook)
    task.check(first)
    task.solution()
    task.check(577)
    assert f"Task 01.1: {words}" in capsys.readouterr().out.splitlines()[-1]


def test_progress_counts_tries_and_hints_also_when_the_cell_runs_again(fresh, notebook):
    with pytest.raises(CourseError, match="run the cells"):
        tasks.progress()
    make("CountTokens", notebook).check(576)
    make("CountTokens", notebook).check(577)
    again = make("CountTokens", notebook)
    again.check(...)
    again.hint()
    make("CutPatches", notebook).check(None)
    table = tasks.progress()
    assert table.index.tolist() == ["01.1", "01.2", "01.3", "01.4"]
    assert table["state"].tolist()[:2] == ["right", "not yet"]
    assert table["state"].iloc[2] == "its cell has not been run"
    assert table["tries"].tolist() == [2, 1, 0, 0]
    assert table["hints"].tolist() == [1, 0, 0, 0]


def test_a_notebook_goes_on_with_the_learners_answer_or_with_ours(fresh, notebook):
    task = make("CountTokens", notebook)
    names = {"task": task, **notebook}
    exec("ours = task.answer()", names)
    assert task.verdict(names["ours"]).state == core.RIGHT
    task.check(576)
    exec("ours = task.answer()", names)
    assert names["ours"] == 577
    theirs = torch.tensor(577)
    task.check(theirs)
    assert task.answer() is theirs


def test_the_time_that_a_task_took_is_told_and_read_back(fresh, notebook, capsys, monkeypatch):
    def unfold(pixels, size):
        return torch.nn.functional.unfold(pixels, size, stride=size).transpose(1, 2)

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(core, "time", SimpleNamespace(monotonic=lambda: clock.now))
    first, second = make("CountTokens", notebook), make("CutPatches", notebook)  # all cells are run
    answers = [(first, 576, 60), (first, 577, 240), (first, 577, 300)]
    for task, answer, clock.now in [*answers, (second, unfold, 600)]:
        task.check(answer)
    wrong, right, again, other = capsys.readouterr().out.splitlines()
    assert "time" not in wrong
    assert right.endswith("Your time: 4 min.") and again.endswith("4 min.")
    assert other.endswith("Your time: 6 min.")  # since the first one was right
    printed = submitted(
        *((editions.learners_cell(t), line) for t, line in ((first, right), (second, other)))
    )
    assert editions.minutes(printed) == {"01.1": 4, "01.2": 6}


def test_what_takes_no_time_is_not_timed(fresh, notebook, capsys):
    make("CountTokens", notebook).check(577)  # as in the solved edition
    assert "time" not in capsys.readouterr().out


@pytest.mark.parametrize("ties", ["win", "lose"])
def test_equal_logits_of_a_gpu_may_come_in_any_order(ties, capsys):
    labels = torch.arange(600) % 12
    logits = torch.randn(600, 12, generator=torch.Generator().manual_seed(0)).mul(2).round()
    task = tasks.flowers.TopKAccuracy(SimpleNamespace(logits=logits, labels=labels))

    def top_k_accuracy(logits, labels, k):
        own = logits.gather(1, labels[:, None])
        ahead = (
            logits > own if ties == "win" else (logits >= own).scatter(1, labels[:, None], False)
        )
        return (ahead.sum(dim=1) < k).float().mean()

    task.check(top_k_accuracy)
    assert "right" in capsys.readouterr().out
    task.check(lambda logits, labels, k: top_k_accuracy(logits, labels, k) + 0.5)
    assert "too high" in capsys.readouterr().out


def test_a_head_without_a_distance_is_neither_the_farthest_nor_the_nearest(capsys):
    distance = torch.tensor([[float("nan"), 40.0], [10.0, 90.0]])
    task = tasks.attention.FarthestHead(distance)
    for answer, words in [
        ((1, 1), "✓ Task 03.2: right. Head 1 of layer 1 looks 90 pixels far."),
        ((0, 0), "(0, 0) was left out"),
        ((1, 0), "(1, 0) looks 10 pixels far: the nearest."),
    ]:
        task.check(answer)
        assert words in capsys.readouterr().out


# --- editions ------------------------------------------------------------------------------------


def test_the_notebooks_hold_every_task_as_the_package_has_it():
    for path in runner.find():
        cells = nbformat.read(path, as_version=4).cells
        sources = [cell.source for cell in cells]
        for task in editions.of_notebook(path.stem):
            assert editions.question(task) in sources, f"{task.id}: the question differs"
            assert editions.learners_cell(task) in sources, f"{task.id}: the learner's cell differs"
            assert (
                sources.index(editions.learners_cell(task))
                == sources.index(editions.question(task)) + 1
            )
        assert any(source.splitlines()[-1:] == ["tasks.progress()"] for source in sources)


def test_solve_puts_the_solution_in_place_of_every_stub(tmp_path, capsys):
    assert __main__.main(["solve", "--to", str(tmp_path)]) == 0
    for path in runner.find():
        sources = "\n".join(c.source for c in nbformat.read(tmp_path / path.name, 4).cells)
        for task in editions.of_notebook(path.stem):
            assert task.solution_code.strip() in sources
            assert task.stub.strip() not in sources
        assert "= ..." not in sources and "return ..." not in sources


def submitted(*cells):
    """A notebook of code cells, each with what it printed."""
    notebook = nbformat.v4.new_notebook()
    for source, printed in cells:
        cell = nbformat.v4.new_code_cell(source)
        if printed:
            cell.outputs = [nbformat.v4.new_output("stream", text=printed)]
        notebook.cells.append(cell)
    return notebook


def test_a_stub_that_was_changed_in_the_notebook_is_found():
    task = BY_NAME["CountTokens"]
    others = [(editions.learners_cell(t), "") for t in editions.of_notebook("01_classify")[1:]]
    notebook = submitted((editions.learners_cell(task).replace("= ...", "= 5"), ""), *others)
    with pytest.raises(CourseError, match="does not hold the stub of CountTokens"):
        editions.solve(notebook, "01_classify")
    with pytest.raises(CourseError, match=r"Task 01.1 has 0 cells in 01_classify.ipynb"):
        editions.solve(submitted(*others), "01_classify")


def test_a_solved_notebook_whose_check_fails_is_reported(monkeypatch, tmp_path, capsys):
    notebook = submitted(
        (editions.learners_cell(BY_NAME["CountTokens"]), "✗ Task 01.1: not yet. 5 tokens")
    )
    path = tmp_path / "01_classify.ipynb"
    nbformat.write(notebook, path)
    monkeypatch.setattr(editions, "solve_all", lambda paths, to: [path])
    monkeypatch.setattr(runner, "execute", lambda path: (notebook, runner.Run("01_classify")))
    assert runner.solve(to=tmp_path, execute_them=True) == 1
    assert "01.1: not yet" in capsys.readouterr().out


def test_progress_over_a_folder_reads_what_was_printed_and_executes_nothing(tmp_path, capsys):
    first, second, third, fourth = editions.of_notebook("01_classify")
    ann = submitted(
        (editions.learners_cell(first), "✗ Task 01.1: not yet. 576 is the number of patches."),
        ("q1.check(577)", "✓ Task 01.1: right. Well done. Your time: 4 min."),
        (
            editions.learners_cell(second),
            "✓ Task 01.2: right (after the solution was shown). Good.",
        ),
        (editions.learners_cell(third), "○ Task 01.3: not attempted yet. Put your answer"),
        (editions.learners_cell(fourth), ""),
        ("open('executed', 'w')", ""),
    )
    (tmp_path / "group").mkdir()
    nbformat.write(ann, tmp_path / "group" / "ann, 01.ipynb")
    nbformat.write(submitted(("1 + 1", "2")), tmp_path / "other.ipynb")
    (tmp_path / "=cmd.ipynb").write_text("{broken", encoding="utf-8")
    (tmp_path / "list.ipynb").write_text("[1]", encoding="utf-8")
    assert __main__.main(["progress", str(tmp_path)]) == 0
    rows = {r["file"]: r for r in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    ann = rows["group/ann, 01.ipynb"]
    assert [ann.pop(f"minutes {i}") for i in range(1, 5)] == ["4", "", "", ""]
    assert ann == {
        "file": "group/ann, 01.ipynb",
        "notebook": "01_classify",
        "right": "2",
        "tasks": "4",
        "task 1": "right",
        "task 2": "right after the solution",
        "task 3": "not attempted yet",
        "task 4": "not run",
    }
    assert rows["other.ipynb"]["notebook"] == "no task of the course"
    assert rows["'=cmd.ipynb"]["notebook"] == rows["list.ipynb"]["notebook"] == "cannot be read"
    assert not (tmp_path / "executed").exists()


def test_progress_of_a_missing_or_empty_folder_is_one_sentence(tmp_path, capsys):
    assert __main__.main(["progress", str(tmp_path / "nowhere")]) == 2
    assert __main__.main(["progress", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert "There is no folder" in shown and "There are no notebooks" in shown


def test_saved_notebooks_show_every_task_as_not_attempted():
    for path in runner.find():
        states = editions.states(json.loads(path.read_text(encoding="utf-8")))
        assert len(states) == len(editions.of_notebook(path.stem))
        assert set(states.values()) == {core.NOT_ATTEMPTED}

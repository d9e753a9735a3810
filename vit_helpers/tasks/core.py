"""What a task is: a question, hints, a solution, and a check that survives any answer.

A task is a class (see the other modules of this package). It has all that the notebook, the
solved edition and the tests need, so they cannot drift apart:

- `question`, `difficulty`, `minutes`: the text above the learner's cell
- `stub`: what stands in the cell; with it the check says "not attempted yet"
- `solution_code`: what takes the place of the stub in the solved edition
- `hints`: two or three, each saying more
- `_judge`: compares an answer with the truth, which it computes from the model and the data that
  the task was made with. It returns why the answer is right, or raises `Wrong`.
"""

import sys
import textwrap
import time
from dataclasses import dataclass, field

from .answers import (
    NotAttempted,
    Wrong,
    call,
    close,
    function,
    number,
    numbers,
    quote,
    raised,
    random,
    recognise,
    shaped,
    tiny_vit,
    whole_number,
)
from .limit import TimeIsUp, within

__all__ = [
    "EASY",
    "HARD",
    "MEDIUM",
    "NotAttempted",
    "Task",
    "Wrong",
    "call",
    "close",
    "function",
    "number",
    "numbers",
    "quote",
    "random",
    "recognise",
    "register",
    "shaped",
    "tiny_vit",
    "whole_number",
]

EASY, MEDIUM, HARD = "easy", "medium", "hard"
RIGHT, WRONG, NOT_ATTEMPTED = "right", "not yet", "not attempted yet"
SIGNS = {RIGHT: "✓", WRONG: "✗", NOT_ATTEMPTED: "○"}
YOUR_TIME = "Your time:"  # the table over submitted notebooks looks for it

HOW_TASKS_WORK = (
    "> **How the tasks work.** Put your answer in place of the dots and run the cell. `check` says "
    "at once whether it is right. `q1.hint()` in a cell of your own helps; call it again, and it "
    "helps more. `q1.solution()` shows one way to do it. Where the notebook goes on with what you "
    "have built, `q1.answer()` gives yours once it is right, and ours until then."
)


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        state: `RIGHT`, `WRONG` or `NOT_ATTEMPTED`.
        message: One or two sentences for the learner.
        error: An error that the answer raised where nothing of the learner's is called, such as
            an object that cannot be compared. `None` in all other cases.
    """

    state: str
    message: str
    error: BaseException | None = None


@dataclass
class Record:
    """What a learner did with one task in this kernel; running its cell again keeps it."""

    state: str = NOT_ATTEMPTED
    tries: int = 0
    hints: int = 0
    solution_seen: bool = False
    # When its cell was run for the first time.
    began: float = field(default_factory=lambda: time.monotonic())
    ended: float | None = None  # it was right for the first time
    minutes: float = 0.0  # from the one to the other


records: dict[str, Record] = {}  # by the id of the task, such as "01.2"


class Task:
    """One task for the learner. Make it in a notebook with the model and data of that notebook."""

    # Filled in by `register`, from the order in the module's list.
    notebook: str  # such as "01_classify"
    number: int
    id: str  # number of the notebook and of the task, such as "01.2"

    title: str
    difficulty: str
    minutes: int  # how long it may take, as its author thinks
    question: str
    make: str  # how the notebook makes it, such as "CountTokens(model)"
    stub: str
    solution_code: str
    hints: tuple[str, ...]
    limit_seconds: float = 10.0  # a check takes less than one; a slow machine may take longer

    def __init__(self):
        self._record = records.setdefault(self.id, Record())
        self._right_answer = ...  # none yet

    # --- what the learner calls -----------------------------------------------------------------

    def check(self, answer) -> None:
        """Say whether the answer is right, and if not, what is wrong with it.

        Args:
            answer: Anything. A number may be a Python or NumPy number or a tensor; a list of
                numbers may be a list, a tuple, an array or a tensor; a function is tried on
                several inputs.
        """
        verdict = self.verdict(answer)
        record = self._record
        if verdict.state == RIGHT:
            self._right_answer = answer
        if verdict.state != NOT_ATTEMPTED:
            record.tries += 1
        if record.state != RIGHT:
            record.state = verdict.state
            if verdict.state == RIGHT:
                self._take_time()
        after = " (after the solution was shown)" if record.solution_seen else ""
        words = verdict.message
        if verdict.state == RIGHT and record.minutes >= 0.5:
            words += f" {YOUR_TIME} {record.minutes:.0f} min."
        print(f"{SIGNS[verdict.state]} Task {self.id}: {verdict.state}{after}. {words}")

    def _take_time(self) -> None:
        """Note the minutes since its cell was first run, or since another task was right.

        If all cells of a notebook are run at once, all its tasks begin at once.
        """
        ends = [record.ended for record in records.values() if record.ended is not None]
        self._record.ended = time.monotonic()
        self._record.minutes = (self._record.ended - max([self._record.began, *ends])) / 60

    def answer(self):
        """What the notebook goes on with: the learner's answer once it is right, ours until then.

        Our solution runs with the names of the notebook.
        """
        if self._right_answer is not ...:
            return self._right_answer
        names = dict(sys._getframe(1).f_globals)
        exec(self.solution_code, names)
        return names[self.given()]

    def hint(self) -> None:
        """Give a hint. Each call says more, until there are no more."""
        count = min(self._record.hints, len(self.hints) - 1)
        self._record.hints = count + 1
        print(f"Hint {count + 1} of {len(self.hints)}: {self.hints[count]}")
        if count + 1 == len(self.hints):
            print(f"That was the last one. {self._variable}.solution() shows a solution.")

    def solution(self):
        """Show one way to do it, as highlighted code."""
        from IPython.display import Code

        if self._record.state != RIGHT:  # who compares afterwards has done it alone
            self._record.solution_seen = True
        return Code(self.solution_code, language="python")

    # --- the check ------------------------------------------------------------------------------

    def verdict(self, answer) -> Verdict:
        """Judge an answer. Whatever it is, this returns within about `limit_seconds`."""
        if answer is ...:
            return self._not_attempted()
        try:
            return within(self.limit_seconds, self._verdict, answer)
        except TimeIsUp as late:
            return Verdict(WRONG, str(late))

    def _verdict(self, answer) -> Verdict:
        try:
            return Verdict(RIGHT, self._judge(answer))
        except NotAttempted:
            return self._not_attempted()
        except Wrong as wrong:
            return Verdict(WRONG, str(wrong))
        except TimeIsUp:
            raise
        except BaseException as error:
            # The answer is an object that fails when it is read. The tests make sure that no
            # ordinary answer gets here, so that a mistake of ours is not blamed on the learner.
            what = f"Your answer, an object of type {type(answer).__name__},"
            return Verdict(WRONG, f"{what} cannot be checked: reading it {raised(error)}.", error)

    def _judge(self, answer) -> str:
        raise NotImplementedError

    def _not_attempted(self) -> Verdict:
        help_text = f"Put your answer in place of the dots. {self._variable}.hint() helps."
        return Verdict(NOT_ATTEMPTED, help_text)

    @property
    def _variable(self) -> str:
        return f"q{self.number}"

    # --- the text of the notebook ---------------------------------------------------------------

    @classmethod
    def given(cls) -> str:
        """The name that the stub defines: `answer`, or the name of a function."""
        first = next(line for line in cls.stub.splitlines() if line.startswith(("def ", "answer")))
        return first.removeprefix("def ").split("(")[0].split(" ")[0]

    @classmethod
    def markdown(cls) -> str:
        """The cell above the learner's cell."""
        parts = [
            f"### Task {cls.number}: {cls.title}",
            f"*About {cls.minutes} minutes · {cls.difficulty}*",
            one_line_a_paragraph(cls.question),
        ]
        return "\n\n".join(parts + [HOW_TASKS_WORK] * (cls.number == 1))

    @classmethod
    def cell(cls) -> str:
        """The learner's cell: make the task, the stub, the check."""
        variable = f"q{cls.number}"
        module = cls.__module__.rpartition(".")[2]
        space = "\n\n" if "def " in cls.stub else ""  # two empty lines around a function
        return (
            f"{variable} = tasks.{module}.{cls.make}\n{space}{cls.stub.strip()}\n{space}"
            f"{variable}.check({cls.given()})"
        )


def one_line_a_paragraph(text: str) -> str:
    """Join the lines of each paragraph, as Markdown wants it; lists and code keep theirs."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    keep = ("- ", "```", "$$")
    return "\n\n".join(p if p.startswith(keep) else " ".join(p.splitlines()) for p in paragraphs)


def register(notebook: str, classes) -> tuple:
    """Give the tasks of a notebook numbers and ids. Returns the classes as a tuple."""
    for place, task in enumerate(classes, start=1):
        task.notebook, task.number, task.id = notebook, place, f"{notebook[:2]}.{place}"
    return tuple(classes)

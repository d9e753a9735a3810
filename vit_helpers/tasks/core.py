"""What a task is: a text in the Markdown file beside its module, and a check.

The file (`classify.md` for `classify.py`) has for each task of a notebook how it is made, such as
`CountTokens(model)`; title, minutes, difficulty and question; the stub that stands in the learner's
cell; the solution; and two or three hints, each saying more.

A class of that name has `_judge`: it compares an answer with the truth, which it computes from the
model and the data that the task was made with. It returns why the answer is right, or raises
`Wrong`.
"""

import functools
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .answers import NotAttempted, Wrong, raised
from .limit import TimeIsUp, within

EASY, MEDIUM, HARD = "easy", "medium", "hard"
RIGHT, WRONG, NOT_ATTEMPTED = "right", "not yet", "not attempted yet"
SIGNS = {RIGHT: "✓", WRONG: "✗", NOT_ATTEMPTED: "○"}
YOUR_TIME = "Your time:"  # the table over submitted notebooks looks for it

TEXT = re.compile(
    r"## (?P<make>[^\n]+)\n\n### (?P<title>[^\n]+)\n\n\*About (?P<minutes>\d+) minutes · "
    r"(?P<difficulty>\w+)\*\n\n(?P<question>.+?)\n\n```python stub\n(?P<stub>.+?)\n```\n\n"
    r"```python solution\n(?P<solution_code>.+?)\n```\n\n(?P<hints>.+?)(?=\n\n## |\Z)",
    re.DOTALL,
)


@functools.cache
def texts(module: str) -> dict[str, dict]:
    """The texts of a module's tasks from its Markdown file, by class name, as class attributes."""
    content = Path(__file__).with_name(f"{module}.md").read_text(encoding="utf-8")
    notebook = content.splitlines()[0].removeprefix("# ")
    found = {}
    for number, match in enumerate(TEXT.finditer(content), start=1):
        text: dict = match.groupdict()
        text["minutes"] = int(text["minutes"])
        text["hints"] = tuple(re.findall(r"^\d\. (.+)$", text["hints"], re.M))
        text |= {"notebook": notebook, "number": number, "id": f"{notebook[:2]}.{number}"}
        found[text["make"].split("(")[0]] = text
    return found


class Verdict(NamedTuple):
    """What a check found: a state, and one or two sentences for the learner."""

    state: str
    message: str


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

    notebook: str  # such as "01_classify"
    number: int
    id: str  # number of the notebook and of the task, such as "01.2"
    title: str
    difficulty: str
    minutes: int  # how long it may take, as its author thinks
    question: str
    make: str
    stub: str
    solution_code: str
    hints: tuple[str, ...]
    limit_seconds: float = 10.0  # a check takes less than one; a slow machine may take longer

    def __init_subclass__(cls):
        for name, value in texts(cls.__module__.rpartition(".")[2])[cls.__name__].items():
            setattr(cls, name, value)

    def __init__(self):
        self._record = records.setdefault(self.id, Record())
        self._right_answer = ...  # none yet

    def check(self, answer) -> None:
        """Say whether the answer is right, and if not, what is wrong with it.

        Numbers may be Python's, NumPy's or torch's; a function is tried on several inputs.
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
            print(f"That was the last one. q{self.number}.solution() shows a solution.")

    def solution(self):
        """Show one way to do it, as highlighted code."""
        from IPython.display import Code

        if self._record.state != RIGHT:  # who compares afterwards has done it alone
            self._record.solution_seen = True
        return Code(self.solution_code, language="python")

    def verdict(self, answer) -> Verdict:
        """Judge an answer. Whatever it is, this returns within about `limit_seconds`."""
        try:
            return within(self.limit_seconds, self._verdict, answer)
        except TimeIsUp as late:
            return Verdict(WRONG, str(late))

    def _verdict(self, answer) -> Verdict:
        try:
            if answer is ...:
                raise NotAttempted
            return Verdict(RIGHT, self._judge(answer))
        except NotAttempted:
            words = f"Put your answer in place of the dots. q{self.number}.hint() helps."
            return Verdict(NOT_ATTEMPTED, words)
        except Wrong as wrong:
            return Verdict(WRONG, str(wrong))
        except TimeIsUp:
            raise
        except BaseException as error:
            # The answer is an object that fails when it is read. The tests make sure that no
            # ordinary answer gets here, so that a mistake of ours is not blamed on the learner.
            what = f"Your answer, an object of type {type(answer).__name__},"
            return Verdict(WRONG, f"{what} cannot be checked: reading it {raised(error)}.")

    def _judge(self, answer) -> str:
        raise NotImplementedError

    @classmethod
    def given(cls) -> str:
        """The name that the stub defines: `answer`, or the name of a function."""
        return re.split(r"\W", cls.stub.removeprefix("def "))[0]

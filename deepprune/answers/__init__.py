r"""Final answers: extract them from traces, compare them, group them into equivalence classes.

from deepprune.answers import EquivalenceChecker, answer_classes, extract_answer

answers = [extract_answer(text) for text in texts]          # "\frac{1}{2}", "0.5", None, ...
with EquivalenceChecker() as checker:
    classes, _ = answer_classes(answers, checker)           # [0, 0, -1, ...]
"""

from deepprune.answers.classes import answer_classes
from deepprune.answers.equivalence import EquivalenceChecker
from deepprune.answers.extract import AnswerStyle, contains_answer, extract_answer

__all__ = [
    "AnswerStyle",
    "EquivalenceChecker",
    "answer_classes",
    "contains_answer",
    "extract_answer",
]

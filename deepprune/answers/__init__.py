r"""Final answers: find them in a trace, compare them, group them into classes.

from deepprune.answers import EquivalenceChecker, answer_classes, extract_answer, is_correct

answers = [extract_answer(text) for text in texts]          # "\frac{1}{2}", "0.5", None, ...
with EquivalenceChecker() as checker:
    classes = answer_classes(answers, checker).class_ids    # (0, 0, -1, ...)
    correct = [is_correct(a, r"\frac12", checker) for a in answers]
"""

from deepprune.answers.classes import AnswerClasses, answer_classes, is_correct
from deepprune.answers.equivalence import EquivalenceChecker, WorkerError
from deepprune.answers.extract import AnswerStyle, contains_answer, extract_answer

__all__ = [
    "AnswerClasses",
    "AnswerStyle",
    "EquivalenceChecker",
    "WorkerError",
    "answer_classes",
    "contains_answer",
    "extract_answer",
    "is_correct",
]

import pytest

from deepprune.answers import contains_answer, extract_answer
from deepprune.core.errors import InputError

CASES = [
    (r"So $x=\boxed{\frac{1}{2}}$.", "auto", r"\frac{1}{2}"),
    (r"\boxed{1} no, wait: \boxed{2}. Done.", "boxed", "2"),  # a correction
    (r"First \boxed{1}. Then \boxed{2}.", "boxed", "2"),
    (r"\(\boxed{3}\), \(\boxed{5}\), and \(\boxed{7}\).", "boxed", "3, 5, 7"),
    (r"\boxed{5} $ and again $ \boxed{5}", "boxed", "5"),
    (r"\boxed{2 \cdot 3} = \boxed{6}", "boxed", "6"),
    (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
    (r"\boxed{\boxed{5}}", "boxed", "5"),
    (r"\fbox{7}", "boxed", "7"),
    (r"$\boxed 5$ apples", "boxed", "5"),
    (r"$\boxed\pi$", "boxed", r"\pi"),
    (r"\boxed{12} hmm \boxed{1", "boxed", "12"),  # cut inside the second box
    (r"\boxed{12", "boxed", None),
    (r"I will write it in \boxed{}, as \boxed{answer}.", "boxed", None),
    ("no box", "boxed", None),
    ("#### 1,200\n", "auto", "1,200"),
    ("#### 7\n#### \n", "gsm8k", "7"),
    ("The final answer is **42**.", "answer_is", "42"),
    ("The answer is $x = 3.5$, I think.", "answer_is", "x = 3.5"),
    ("**Final Answer**\n\n\\[ \\frac{1}{2} \\]", "auto", r"\frac{1}{2}"),
    ("The answer is 3.5 dollars. Good.", "auto", "3.5 dollars"),
    ("the answer is 4. No, the answer is not 4", "answer_is", "4"),
    ("Answer: 1\nAnswer: 2", "answer_is", "2"),
    ("So the answer is (C).", "choice", "C"),
    ("Answer: C", "choice", "C"),
    ("The correct answer is: **B**", "choice", "B"),
    (r"\boxed{\text{C}}", "choice", "C"),
    (r"\boxed{D. 12 apples}", "choice", "D"),
    ("Consider A.\n\n(D)\n", "choice", "D"),
    ("Consider A and B", "choice", None),
    (r"\boxed{1} and" + " so" * 25 + r" \boxed{2}", "boxed", "1, 2"),  # 79 characters between
    (r"\boxed{1} and" + " so" * 26 + r" \boxed{2}", "boxed", "2"),  # 82: no longer one statement
    (r"\boxed{1} = \boxed{1.0}", "boxed", "1.0"),
    (" ".join(rf"\boxed{{{i}}}," for i in range(20)), "boxed", ", ".join(map(str, range(20)))),
    (" ".join(rf"\boxed{{{i}}}," for i in range(21)), "boxed", "20"),  # a loop
    (r"\boxed{" + "1" * 1000 + "}", "boxed", "1" * 1000),
    (r"\boxed{" + "1" * 1001 + "}", "boxed", None),  # as long as an unclosed box
    ("#### 5 apples.\nDone", "gsm8k", "5 apples"),
    ("The answer is 7.\n" + "Answer: .\n" * 19, "answer_is", "7"),
    ("The answer is 7.\n" + "Answer: .\n" * 20, "answer_is", None),  # only 20 are tried
    ("Answer:\n\n$$x = 2$$", "answer_is", "x = 2"),
    ("Final answer: 1. The answer is 2?", "answer_is", "2"),
    (r"not \boxed{3} but \boxed{4}", "boxed", "4"),
    (r"It is \boxed{4}, not \boxed{3}.", "boxed", "4"),
    (r"$x_1=\boxed{4}$ and $x_2=\boxed{7}$", "boxed", "4, 7"),
    ("(1) \\boxed{4}\n\n(2) \\boxed{7}", "boxed", "4, 7"),
    ("(a) \\boxed{4}\n(b) \\boxed{no}", "boxed", "4, no"),
    ("Answer: `24`", "auto", "24"),
    ("Final Answer: __24__", "auto", "24"),
    ("Answer: 24 \u2705", "auto", "24"),
    (r"**Answer: \$24 per day.**", "auto", r"\$24 per day"),
    ("It earns 24.\n<answer> 24 </answer>", "auto", "24"),
    ("因此,最终答案是 24。", "auto", "24"),
    ("答案\uff1a24", "auto", "24"),
    ("Donc la réponse finale est 24.", "auto", "24"),
    ("Ответ: 24", "auto", "24"),
    ("Die Antwort lautet 24.", "auto", "24"),
    ("La respuesta es 24.", "auto", "24"),
    ("答えは 24 です。", "auto", "24"),
    (r"The answer is 4. Final answer: \(\boxed{\frac{5", "auto", "4"),  # cut in a box
    ("The answer is 4.\n\nThe final answer is:\n\n\\[\n\\boxed{\\frac{5", "auto", "4"),
    ("정답은 24입니다.", "auto", "24"),
]
THOUGHTS = [
    (r"<think>\boxed{3}? No.</think> So \boxed{4}.", r"4"),
    (r"I box \boxed{3}.</think> The sum is three.", "3"),  # nothing after the thoughts
    (r"<think>a</think><think>\boxed{9}</think> \boxed{4}", "4"),
    (r"The answer is 5.</think> The answer is 4.", "4"),
    (r"<think>Maybe \boxed{5}. Let me count: 1, 2,", None),  # cut
    ("<think>So the answer is 4. But", None),
    (r"<think>So it is \[\boxed{4}.\]", "4"),  # ended by its box
]
CHOICES = [  # what models that think for long write after their thoughts
    *(("B", ending) for ending in ("B", "**B**", "(B)", "B.", "$B$", "**B) the moon**", "[[B]]")),
    *(("B", f"{start} **B**.") for start in ("The correct answer is", "So the best choice is")),
    *(("B", f"Answer: {letter}") for letter in ("B", "(B)", "**B**", "$B$", "b", "[[B]]", "`B`")),
    *(("B", f"**Final Answer**\n\n{letter}") for letter in ("B", "Option B", r"\(B\)")),
    *(("B", rf"$\boxed{{{box}}}$") for box in ("B", r"\text{Option B}", "b", r"\textbf{(B) }3")),
    ("B", "Correct option: B"),
    ("B", "Hence, B."),
    ("B", "**Option B**"),
    ("B", "The most accurate choice would be B."),
    ("B", "所以答案是B。"),
    ("B", "La réponse est B."),
    ("B", "Ответ: B"),
    ("B", "Therefore, option B is correct."),
    ("B", "Thus, (B) is the right choice. A is a common mistake."),
    ("B", "The answer should be B because the tide follows it."),
    ("B", "The answer is B. Note that A is incorrect."),
    ("B", "I choose B."),
    ("B", "The correct choice is (B)."),
    ("B", "<answer>B</answer>"),
    ("A", "The answer is A, since nothing else moves."),
    ("I", "Final answer: I"),
    ("J", "ANSWER: J"),
    (None, "Answer: A or B, I cannot decide"),
    (None, "Answer: I don't know"),
    (None, "The answer is a matter of taste."),
    (None, "I don't think that the answer is C."),
    (None, "Consider option A and option B."),
    (None, "So is the answer C? Let me"),
    (None, "A) oxygen\nB) helium\nC) neon"),
]


@pytest.mark.parametrize(("text", "style", "expected"), CASES)
def test_extracts(text, style, expected):
    assert extract_answer(text, style) == expected
    if style != "auto":
        assert contains_answer(text, style) == (expected is not None)


@pytest.mark.parametrize(("text", "expected"), THOUGHTS)
def test_what_follows_the_thoughts_comes_first(text, expected):
    assert extract_answer(text) == expected


@pytest.mark.parametrize(("letter", "ending"), CHOICES)
@pytest.mark.parametrize("thoughts", ["", "Hmm, A? Or D. Let me see.\n</think>\n\n"])
def test_letters_of_multiple_choice(letter, ending, thoughts):
    assert extract_answer(thoughts + ending, "choice") == letter


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (r"so \boxed{5} then", True),
        (r"so \boxed{5", False),
        (r"<think>so \boxed{5}, but", True),  # thoughts count
        ("#### 5", True),
        ("**Final Answer**: 5", True),
        ("**Final Answer**:", False),
        (r"The final answer is \(\boxed{7", True),  # stated, though its value is still cut
        ("So the answer is 5? Wait, no", False),  # a thought is not a final answer
        ("", False),
    ],
)
def test_contains_an_answer_once_it_is_marked_as_final(prefix, expected):
    assert contains_answer(prefix) is expected


def test_unknown_style_lists_the_known_ones():
    with pytest.raises(InputError, match="auto, boxed, answer_is, gsm8k, choice, got 'box'"):
        extract_answer("5", "box")


@pytest.mark.timeout(60)  # quadratic time would take hours
@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("\\boxed{" * 150_000, "auto"),
        ("\\boxed{" * 70_000 + "}" * 500_000, "boxed"),
        ("\\boxed{1}" * 110_000, "boxed"),
        ("\\boxed " * 150_000, "boxed"),
        ("\\boxed" + " " * 1_000_000, "boxed"),
        ("\\boxed{" + "{" * 1_000_000, "boxed"),
        ("answer is " * 100_000, "answer_is"),
        ("final answer\n" * 80_000, "auto"),
        ("answer" + " " * 1_000_000, "choice"),
        ("#### \n" * 160_000, "gsm8k"),
    ],
)
def test_a_megabyte_of_nonsense_takes_linear_time(text, style):
    extract_answer(text, style)

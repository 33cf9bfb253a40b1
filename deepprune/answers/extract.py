r"""Extract the final answer from the text of a trace.

Every scan takes linear time: model output is untrusted, and a megabyte of ``\boxed{`` must not cost
more than a megabyte of prose.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from deepprune.core.errors import InputError


class AnswerStyle(StrEnum):
    r"""Place and form in which a trace states its final answer."""

    AUTO = "auto"  # \boxed{}, else ####, else "the answer is"
    BOXED = "boxed"  # \boxed{} or \fbox{}
    ANSWER_IS = "answer_is"  # "The final answer is ...", "Answer: ..."
    GSM8K = "gsm8k"  # "#### 42"
    CHOICE = "choice"  # a letter of a multiple-choice question, A to J


class _Open(NamedTuple):
    start: int  # index of the backslash
    content: int  # index after the opening brace


class _Box(NamedTuple):
    start: int  # index of the backslash
    end: int  # one past the closing brace
    content: str


_OPENER = r"\\(?:boxed|fbox)(?![A-Za-z])"
_BARE = r"[ \t]*([+-]?[\d.][^\s{}$\\]*|[A-Za-z](?![A-Za-z])|\\(?!boxed|fbox)[a-z]+)"
_TOKEN = re.compile(rf"[{{}}]|{_OPENER}(?:\s*\{{|{_BARE})|\\.", re.DOTALL)
_UNWRAP = re.compile(rf"{_OPENER}\s*\{{")
_PLACEHOLDER = re.compile(
    r"(?:\\text\{)?\W*(?:\\[lc]?dots|(?:your |the )?(?:final )?answer)?\W*", re.I
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n\s*\n|</think>")
_MAX_GAP = 80  # characters between two boxes of one sentence
_MAX_JOINED = 20  # values of one sentence

_NOT_BEFORE = re.compile(r"\bnot\s+[$*\\(\[]{0,4}$")  # "not \boxed{3}"
_CORRECTION = re.compile(r"\b(?:but|instead|not|wait)\b", re.I)
_PART_LABEL = re.compile(  # "\n\n(2) " and "$ and $x_2="
    r"[\s$.;,]*\(?(?:\d|[a-h]|[ivx]{1,4})[).:][\s$*\\(\[]*"
    r"|[^=]*(?:,|;|\band|\bor|\n)[\s$*\\(\[-]*[A-Za-z]\w*(?:_\{?\w+\}?)?\s*=[\s$*]*"
)
_THINK_END = "</think>"
_NOTHING_MORE = re.compile(r"[\s$*.)\]\\]*")
_TAGGED = re.compile(r"<answer>([^<]{1,1000})</answer>", re.I)

_ANSWER_IS = re.compile(
    r"\b(?:final\s{1,3}answer|answers?(?=\W{0,4}(?:is|are)\b|\W{0,4}:))"
    r"(?!\W{0,8}(?:is|are)\s(?:not|to)\b)(?:[\s:*]{0,8}\b(?:is|are)\b)?[\s:*]{0,8}"
    r"|(?:答案|答え|정답|답)\s?(?:是|为|為|は|은|[:\uff1a])[\s:*]{0,8}"
    r"|\b(?:réponse|antwort|respuesta|ответ)(?:\s(?!est|ist|lautet|es\b)\w{3,12})?"
    r"\s?(?:est|ist|lautet|es|[:\u2014-])[\s:*]{1,8}",
    re.IGNORECASE,
)
_LINE_SENTENCE_END = re.compile(r"[.!?](?:[\s*]|$)|\n|。")
_UNFINISHED = re.compile(rf"{_OPENER}|^\\[\[(]\s*$")  # a box or formula that was cut
_DECORATION = "[\\s*:`_\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]"
_DECORATED = re.compile(rf"{_DECORATION}*(.*?)(?:です|입니다|{_DECORATION})*", re.DOTALL)
_MAX_TRIES = 20  # statements examined, from the end of the text
_MAX_STATEMENT = 1000  # characters of a box, and of the text read after "the answer is"

_WRAP = r"(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s?\{|[\s:\uff1a*$\"'`(\[]|\\\()"
_NOUN = (
    r"(?:\b(?:[Aa]nswer|ANSWER|[Rr]éponse|Antwort|[Rr]espuesta|\u041e\u0442\u0432\u0435\u0442|(?:[Cc]orrect|[Rr]ight"
    r"|[Bb]est|[Ff]inal|[Mm]y|accurate|appropriate)\s(?:option|choice|letter))|答案|答え|정답)"
)
_VERB = (
    r"(?:\W{0,4}(?:\b(?:is|IS|est|ist|lautet|es|(?:should|must|would|will)\sbe)\b|[是为為は은])"
    r"(?:\s(?:therefore|thus|then|clearly|likely|simply)\b)?)?"
)
# "A" and "I" are words too: "Answer: I don't know", "The answer is a mix".
_LETTER = (
    r"(?:([B-HJ]|[AI](?!\s+(?!because|since|as\b|is\b|which|for\b|with\b)[a-z]))(?![A-Za-z0-9'])"
    r"|([a-j])(?=[)\].*`\s$}]{0,6}$))"
)
_CHOICE = re.compile(
    rf"{_NOUN}{_VERB}{_WRAP}{{0,8}}"
    rf"(?:(?:[Oo]ption|[Cc]hoice)\s)?{_WRAP}{{0,4}}{_LETTER}"
    r"|\b(?:[Ii]|[Ww]e)(?:'ll|\swill)?\s(?:choose|select|pick|go\swith)\s(?:option\s)?\W{0,4}([A-J])\b"
    r"|(?<![A-Za-z'])([A-J])[)\]*$}]{0,5}\sis\s(?:indeed\s)?(?:the\s)?(?:correct|right|best)\b"
    r"|\[\[([A-J])\]\]|<answer>\W{0,4}([A-Ja-j])\W{0,4}</answer>"
    r"|^\W{0,4}\(([A-J])\)\W{0,4}$",
    re.MULTILINE,
)
_UNDECIDED = re.compile(r"\W{0,3}(?:\?|(?:\s|^)(?:or|and)\s\W{0,3}[A-Ja-j]\b|/[A-J]\b)")
_DENIED = re.compile(r"(?:n't|\bnot|\bnever)\b[^.\n]*$")
_LAST_LINE = re.compile(
    r"\W{0,6}(?:(?:So|Thus|Hence|Therefore|Option|Choice),?\s){0,2}\W{0,6}([A-J]|(?<!\s)[a-j])\W{0,6}"
    r"|\*\*\(?([A-J])[).:][^*]*\*\*\W?"
)
_CHOICE_CONTENT = re.compile(
    r"\W{0,4}(?:\\(?:text|textbf|mathrm|mathbf)\s?\{)?(?:(?:option|choice)\s)?[(\[]?\s?([A-Ja-j])\s?[)\]]?\}?"
    r"(?:[\s.:,)}\\].*)?",
    re.DOTALL | re.IGNORECASE,
)


def extract_answer(text: str, style: AnswerStyle | str = AnswerStyle.AUTO) -> str | None:
    r"""Return the final answer of a trace as written, or ``None`` if it has none.

    * ``boxed``: the last complete ``\boxed{}`` or ``\fbox{}`` (also ``\boxed 5``). Values boxed
      separately in one sentence are joined with ``", "``. Empty boxes and placeholders such as
      ``\boxed{answer}`` are ignored, and so is a box that the text never closes: an earlier
      complete box is then the answer.
    * ``gsm8k``: the text after the last ``####``.
    * ``answer_is``: the text after the last "answer is", "answer:" or "final answer", up to the end
      of the sentence, without ``**`` and ``$``.
    * ``choice``: the letter in the box, else of the last "Answer: C", "(C) is correct" and the
      like, or of a last line that is only a letter. "A or B" is none.
    * ``auto``: the first of ``boxed``, ``<answer>``, ``gsm8k``, ``answer_is`` that finds an answer.

    What follows the last ``</think>`` is searched first, then the thoughts before it. Thoughts that
    were opened and never closed count only if they end with a box: the others were cut.

    >>> extract_answer(r"The roots are \boxed{3} and \boxed{-1}.")
    '3, -1'

    Raises:
        InputError: If the style is unknown.
    """
    style = _style(style)
    thoughts, closed, said = text.rpartition(_THINK_END)
    if closed:
        return _find(said, style) or _find(thoughts, style)
    if "<think>" in text:
        last = deque(_boxes(text), maxlen=1)
        if not last or not _NOTHING_MORE.fullmatch(text, last[0].end):
            return None
    return _find(text, style)


def _find(text: str, style: AnswerStyle) -> str | None:
    match style:
        case AnswerStyle.BOXED:
            return _boxed(text)
        case AnswerStyle.GSM8K:
            return _gsm8k(text)
        case AnswerStyle.ANSWER_IS:
            return _answer_is(text)
        case AnswerStyle.CHOICE:
            return _choice(text)
        case AnswerStyle.AUTO:
            return _boxed(text) or _tagged(text) or _gsm8k(text) or _answer_is(text)


def contains_answer(text: str, style: AnswerStyle | str = AnswerStyle.AUTO) -> bool:
    r"""Return whether the text of a prefix already contains the final answer.

    True where ``extract_answer`` finds one, in thoughts too. With ``auto`` the answer must also be
    marked as final by a complete box, a ``####`` line or the words "final answer": "so the answer
    is 12, wait" in the middle of a trace is none. With ``choice`` a line that is only a letter is
    none: the line may go on.

    Raises:
        InputError: If the style is unknown.
    """
    style = _style(style)
    if style is AnswerStyle.CHOICE:
        return _choice(text, may_be_last_line=False) is not None
    if style is not AnswerStyle.AUTO:
        return _find(text, style) is not None
    if _boxed(text) is not None or _gsm8k(text) is not None:
        return True
    if not any(words in text for words in ("inal answer", "inal Answer", "FINAL ANSWER")):
        return False
    return _answer_is(text, final_only=True) is not None


def _style(style: AnswerStyle | str) -> AnswerStyle:
    try:
        return AnswerStyle(style)
    except ValueError:
        known = ", ".join(AnswerStyle)
        raise InputError(f"answer style must be one of {known}, got {style!r}") from None


def _boxes(text: str) -> Iterator[_Box]:
    """Yield complete, non-empty boxes in the order of their closing braces."""
    first = min((i for i in (text.find("\\boxed"), text.find("\\fbox")) if i >= 0), default=-1)
    if first < 0:
        return
    open_braces: list[_Open | None] = []  # None: a brace that does not open a box
    for match in _TOKEN.finditer(text, first):
        token = match[0]
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            opener = open_braces.pop() if open_braces else None
            # A longer "box" is one that was never closed.
            if opener is not None and match.start() - opener.content <= _MAX_STATEMENT:
                content = text[opener.content : match.start()].strip()
                if not _PLACEHOLDER.fullmatch(content):
                    yield _Box(opener.start, match.end(), content)
        elif token[-1] == "{" and len(token) > 2:
            open_braces.append(_Open(match.start(), match.end()))
        elif match[1]:
            yield _Box(match.start(), match.end(), match[1].rstrip(".,;:"))


def _boxed(text: str) -> str | None:
    """Return the last box, joined with the boxes before it in the same sentence."""
    boxes = list(deque(_boxes(text), maxlen=_MAX_JOINED + 1))
    while len(boxes) > 1 and _NOT_BEFORE.search(
        text, max(0, boxes[-1].start - 12), boxes[-1].start
    ):
        boxes.pop()
    if not boxes:
        return None
    last = boxes[-1]
    values = [_unwrap(last.content)]
    for box in boxes[-2::-1]:
        if box.start >= last.start:  # nested inside the last one
            continue
        gap = text[box.end : last.start]
        if len(gap) > _MAX_GAP or _CORRECTION.search(gap):
            break
        if ("=" in gap or _SENTENCE_END.search(gap)) and not _PART_LABEL.fullmatch(gap):
            break
        if len(values) == _MAX_JOINED:  # degenerate repetition, not an answer with many parts
            return values[0]
        if (value := _unwrap(box.content)) not in values:
            values.append(value)
        last = box
    return ", ".join(reversed(values))


def _tagged(text: str) -> str | None:
    """Return what stands in the last ``<answer>`` tags."""
    tagged = deque(_TAGGED.finditer(text), maxlen=1)
    return (_bare(tagged[0][1]) or None) if tagged else None


def _bare(value: str) -> str:
    """Remove marks of emphasis, code, ticks and full stops around a value."""
    decorated = _DECORATED.fullmatch(value.replace("**", ""))
    return decorated[1].removesuffix(".").strip() if decorated else value


def _unwrap(content: str) -> str:
    r"""Reduce ``\boxed{\boxed{5}}`` to ``5``."""
    while (inner := _UNWRAP.match(content)) and content.endswith("}"):
        content = content[inner.end() : -1].strip()
    return content


def _gsm8k(text: str) -> str | None:
    """Return the text after the last ``####`` that has any on its line."""
    end = len(text)
    while (at := text.rfind("####", 0, end)) >= 0:
        line_end = text.find("\n", at, end)
        value = text[at + 4 : end if line_end < 0 else line_end].strip(" \t#*$.")
        if value:
            return value
        end = at
    return None


def _answer_is(text: str, *, final_only: bool = False) -> str | None:
    """Return the value of the last statement such as "the answer is 5"."""
    for statement in reversed(list(_ANSWER_IS.finditer(text))[-_MAX_TRIES:]):
        if final_only and statement[0][:1] not in "fF":
            continue
        value = _statement_value(text[statement.end() : statement.end() + _MAX_STATEMENT])
        if value and not final_only:
            value = None if _UNFINISHED.search(value) else _bare(value)
        if value:
            return value
    return None


def _statement_value(rest: str) -> str | None:
    """Return the box or formula that ``rest`` starts with, else the rest of the sentence."""
    if (box := next(_boxes(rest[:200]), None)) and not _SENTENCE_END.search(rest[: box.start]):
        return _unwrap(box.content)
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        end = rest.find(closing, len(opening))
        if rest.startswith(opening) and end > 0 and "\n\n" not in rest[:end]:
            return rest[len(opening) : end].strip(" \t\n.") or None
    end_of_sentence = _LINE_SENTENCE_END.search(rest)
    value = rest[: end_of_sentence.start()] if end_of_sentence else rest
    return value.strip(" \t*:").removesuffix(".").replace("**", "").strip() or None


def _choice(text: str, *, may_be_last_line: bool = True) -> str | None:
    """Return the letter in the box, else the last one stated."""
    boxed = _boxed(text)
    if boxed is not None and (letter := _CHOICE_CONTENT.fullmatch(boxed)):
        return letter[1].upper()
    lines = text.strip()[-100:].splitlines()
    if may_be_last_line and lines and (alone := _LAST_LINE.fullmatch(lines[-1])):
        return (alone[1] or alone[2]).upper()
    for stated in reversed(list(_CHOICE.finditer(text))[-_MAX_TRIES:]):
        if _DENIED.search(text[max(0, stated.start() - 40) : stated.start()]):
            continue
        is_decided = _UNDECIDED.match(text, stated.end()) is None
        return next(filter(None, stated.groups())).upper() if is_decided else None
    return None

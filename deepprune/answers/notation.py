r"""LaTeX notation of answers: canonical spelling, splitting, brackets."""

from __future__ import annotations

import re
import unicodedata

NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
            *("seventeen", "eighteen", "nineteen", "twenty"),
        )
    )
}
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR_FRACTION = re.compile("(?<=[0-9])(?=[¼½¾⅐-⅞])")
_PUNCTUATION = str.maketrans({"。": ".", "、": ",", "\u2044": "/", "\u2019": "'"})
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|log|ln|exp|max|min"

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"[\u2010-\u2015\u2212]", "-"),
        (r"\\(?:left|right|big[lr]?|Big[lr]?|bigg[lr]?|displaystyle|limits)(?![A-Za-z])\.?", ""),
        (
            r"\\text(?:bf|it|rm|sf|normal)\s*\{|\\(?:mathrm|mathbf|mbox|mathit|textrm)\s*\{",
            r"\\text{",
        ),
        (r"\\text\s*\{([ie])\}", r"\1"),
        (r"\\text\s*\{([^{}]*)\\[,;: ]", r"\\text{\1 "),
        (r"\*\*\s*(-?\w+)", r"^{\1}"),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s?\()", r"\\\1"),
        (r"(?<=\d) ?\^ ?\{? ?(?:\\text\{ ?)?(?:th|st|nd|rd)\b ?\}?\}?", ""),
        (r"(?<!\\)\bsqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<!\\)\bpi\b", r"\\pi "),
        (r"\\\(|\\\)|\\\[|\\\]", " "),
        (r"(?<=\d)(?:\{,\}|,\\[!,;: ]|\\[,;: ]|,\{\}) *(?=\d{3}(?!\d))", ""),
        (r"\\!", ""),
        (r"(?<=\d)'(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s+", " "),
        (r"_ ?\{? ?\\text\{ ?base ?\} ?(\d+)\}?", r"_\1"),
        (r"(?<=\d) ?(?:\(|\\text ?\{)? ?(?:in )?base[ -]?\}? ?(\d+) ?[)}]?$", r"_\1"),
        (r"\\operatorname\*?\{(max|min|lcm|gcd)\}", r"\\\1"),
        (r"\\(?:[lc]?dots|hdots)(?![A-Za-z])|\.\.\.|…", r"\\ldots "),
        (r"\\dot\{(\d)\}(?:(\d*)\\dot\{(\d)\})?", r"\\overline{\1\2\3}"),
        (r"\\overline\{([A-Z]+)\}", r"\1"),
        (r"(?<=[\d}]) ?\\Omega", r" ohm"),
        (r",? ?(?:\\text\{ ?(?:where|for) ?\})? ?\(?[a-z] ?\\in ?\\mathbb ?\{?[ZN]\}?\)?$", ""),
        (r"\\text\{ ?cis ?\}", r"\\cis "),
        (r"\\varnothing", r"\\emptyset"),
        (r"\\\{ ?[a-z] ?(?:\\mid|\||:)(.*)\\\}$", r"\1"),
        (r"^\](.*)(?=[\[\]]$)", r"(\1"),
        (r"^([(\[][^()\[\]]*)\[$", r"\1)"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\\(le|ge|ne)(?:q|qslant|slant)?(?![A-Za-z])", r"\\\1q"),
        (r"≤", r"\\leq "),
        (r"≥", r"\\geq "),
        (r"π", r"\\pi "),
        (r"∞", r"\\infty "),
        (r"√\s*\(?(\w+)\)?", r"\\sqrt{\1}"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\l(?:angle|parenthesis)(?![A-Za-z])", "("),
        (r"\\r(?:angle|parenthesis)(?![A-Za-z])", ")"),
        (r"\\(?:degree|degrees)(?![A-Za-z])|°", r"^\\circ"),
        (r"\\\$|\$|[€£¥₹₽₩]|\b(?:USD|EUR|GBP|Rs\.?) ?(?=\d)", ""),
        (r"\\text\{[\s.,;:]*\}", ""),
        (r"\\%|(?<=\d) ?percent\b", "%"),
        (r"(hours?|days?|feet|foot|weeks?|years?),? and (?=\d)", r"\1 "),
        (r"(?<=[\d})\]]) ?[或和] ?(?=[\d\\({])", ","),
        (r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<=[\s\d})\]])(?:and|or)(?=[\s\d\\])", ","),
        (r",\s*,", ","),
    )
)


_BASE_WORD = re.compile(rf"_ ?\{{? ?\\text\{{ ?(?:base )?({'|'.join(NUMBER_WORDS)}) ?\}}\}}?", re.I)
_COLUMN = re.compile(r"\\begin\{([pb]matrix|cases)\}([^&]*?)\\end\{\1\}")


def canonical(latex: str) -> str:
    """Rewrite fractions, texts, spaces, relations and symbols to one spelling each."""
    if not latex.isascii():
        latex = _SUPERSCRIPT.sub(lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", latex)
        latex = _VULGAR_FRACTION.sub(" ", latex)
        latex = unicodedata.normalize("NFKC", latex).translate(_PUNCTUATION)
    for pattern, new in _REWRITES:
        latex = pattern.sub(new, latex)
    latex = _BASE_WORD.sub(lambda base: f"_{NUMBER_WORDS[base[1].lower()]}", latex)
    return _COLUMN.sub(lambda column: _as_list(column[1], column[2]), latex)


def _as_list(environment: str, body: str) -> str:
    """Return a column vector as a tuple, and equations below one another as a list."""
    body = body.replace("\\\\", ",").strip(" ,")
    return body if environment == "cases" else f"({body})"


def has_letters(latex: str) -> bool:
    """Return whether ``latex`` has letters other than those of commands."""
    return re.search(r"(?<![\\A-Za-z])[A-Za-z]", latex) is not None


def tight(text: str) -> str:
    """Remove spaces, except one that ends a command, and braces around single characters."""
    tokens = re.findall(r"\\[A-Za-z]+|\\.|\S", text)
    out: list[str] = []
    for token in tokens:
        if out and token[0].isalpha() and out[-1][0] == "\\" and out[-1][-1].isalpha():
            out.append(" ")
        out.append(token)
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", "".join(out))


def split(text: str, separators: str) -> list[str]:
    """Split at separators outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\begin|\\end|\\[{}]|\\.|[(\[{}\])]|.", text, re.DOTALL):
        token = match[0]
        if token in ("(", "[", "{", "\\{", "\\begin"):
            depth += 1
        elif token in (")", "]", "}", "\\}", "\\end"):
            depth -= 1
        elif depth == 0 and token in separators:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def outer_brackets(text: str) -> tuple[str, str, str] | None:
    """Return opening bracket, closing bracket and content if one pair encloses the whole text."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    if (opening == "\\{") != (closing == "\\}"):
        return None
    inside = text[len(opening) : -len(closing)]
    depth = 0
    for match in re.finditer(r"\\.|[(\[\])]", inside, re.DOTALL):
        if match[0] in ("(", "[", "\\{"):
            depth += 1
        elif match[0] in (")", "]", "\\}"):
            depth -= 1
        if depth < 0:
            return None
    return opening, closing, inside

import os
import subprocess
import sys
import threading
import time

import pytest

from deepprune.answers import EquivalenceChecker, equivalence

SAME = [
    ("x=5", "5"),
    ("5 = x", "5"),
    ("9 + 8 + 6 = 23", "23"),
    (r"50\%", "50"),
    (r"\frac12", "0.5"),
    (r"\dfrac{1}{2}", "1/2"),
    (r"\frac{7!}{2} = 2520", "2520"),
    (r"\frac13", "0.333333"),
    (r"0.\overline{3}", r"\frac13"),
    (r"2\frac{1}{2}", "2 1/2"),
    (r"5\text{ cm}", "5 cm"),
    (r"\$5", "5"),
    (r"90^\circ", "90"),
    (r"12^{\mathrm{th}} \text{ grade}", "12"),
    ("10,000", r"10{,}000"),
    (r"10\,000", "10000"),
    (r"28,\!800", r"2 \times 5! \times 5!"),
    (r"1.2\times10^{-3}", "0.0012"),
    (r"\text{C}", "(C)"),
    (r"\text{Monday}", "monday"),
    ("4343_6", r"4343_{\text{base }6}"),
    ("(1,2)", r"\left(1, \frac42\right)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", r"2 \text{ and } 1"),
    (r"3 \pm \sqrt2", r"3+\sqrt{2}, 3-\sqrt{2}"),
    (r"\pm 1, \pm 7", "-7, -1, 1, 7"),
    (r"\theta_c = 5", "5"),
    (r"\mathbf{v} = 5", "5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2.0 \end{bmatrix}"),
    (r"\sqrt{2}", "1.4142136"),
    (r"\frac{1}{i}", "-i"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x", r"\frac{2x}{2}"),
    ("0.5x", r"\frac{x}{2}"),
    ("y=2x+3", "2x-y+3=0"),
    ("x>3", "3<x"),
    ("1<x<2", "(1,2)"),
    (r"x \in (1,2)", "(1,2)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"),
    ("(5)", "5"),  # one value in parentheses is no tuple
    ("{5}", "5"),
    ("5 square miles of land", "5"),  # up to four words are a unit
    ("5 km/h", "5"),
    (r"3.333333\times10^{-1}", r"\frac13"),  # the mantissa has a decimal point
    (r"10^3", "1000"),
    (r"-2\frac{1}{2}", "-5/2"),
    (r"-\frac{3}{4}", "-0.75"),
    (r"1.2\overline{34}", r"\frac{611}{495}"),
    (r"-0.\overline{3}", r"-\frac13"),
    ("3:2", "3:2."),
    (r"\text{June 5}", "june  5"),
    (r"\sqrt{x^2}", "|x|"),
    (r"\max(a,b)", r"\frac{a+b+|a-b|}{2}"),
    (r"\lceil x\rceil", r"-\lfloor -x\rfloor"),
    (r"\ln x^2", r"2\ln x"),  # where both are real
    (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}"),
    (r"(-1)^n", r"(-1)^{n+2}"),
    (r"|a-b|>1", r"|b-a|>1"),
    (r"\pi(R^2-r^2)", r"\pi(R-r)(R+r)"),
    (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k"),
    ("y=2x", r"x=\frac{y}{2}"),
    ("|x|<3", "(-3,3)"),
    ("x>1, x<2", "1<x<2"),
    (r"x<1 \text{ or } x>2", r"(-\infty,1)\cup(2,\infty)"),
    ("x^2=4", r"x=\pm 2"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    (r"x \neq 2", r"\mathbb{R}\setminus\{2\}"),
    (r"\frac{60}{7}\mathrm{~km}/\mathrm{h}", r"\frac{60}{7}"),
    (r"3.2\ \mathrm{m\,s^{-2}}", "3.2"),
    ("Rs. 8", "8"),
    (r"\$12 per week", "12"),
    ("12 (twelve euros)", "12"),
    ("7 m", "7"),
    (r"40\Omega", "40"),
    ("15元", "15"),
    ("3.5 million", r"3{,}500{,}000"),
    (r"\text{seven}", "7"),
    ("14 000", "14000"),
    ("6:4", r"\frac32"),
    (r"0.\dot{1}4\dot{8}", r"\frac{4}{27}"),
    ("0.6666...", r"\frac23"),
    ("3½", "7/2"),
    ("5²", "25"),
    ("8×10⁻³", "0.008"),  # noqa: RUF001
    ("（4，5）", "(4,5)"),  # noqa: RUF001
    ("4或5", "4,5"),
    ("27。", "27"),
    ("4*cos(pi*x/3)", r"4\cos\left(\frac{\pi x}{3}\right)"),
    ("x**12", "x^{12}"),
    ("exp(3)", "e^3"),
    (r"\cos 60^\circ", "0.5"),
    (r"2\text{cis }90^\circ", "2i"),
    (r"110_{\text{two}}", r"110 \text{ base } 2"),
    ("BC^2=19", "19"),
    ("m=4, n=5", "(4,5)"),
    ("(m,n)=(4,5)", "n=5, m=4"),
    ("x_1=4, x_2=5", "x_1=5, x_2=4"),
    (r"\begin{cases} x = 4 \\ y = 5 \end{cases}", "(4,5)"),
    ("]4,5[", "(4,5)"),
    (r"n \equiv 4 \pmod{9}", "4"),
    (r"k\pi, k\in\mathbb{Z}", r"k\pi"),
    (r"\varnothing", r"\text{no real solutions}"),
    ("5 hours and 20 minutes", r"\text{5 hours 20 minutes}"),
    (r"9:30 \text{ a.m.}", "9:30 AM"),
    ("March 3", "3 March"),
    ("e", "2.718281828"),
    (r"1,2,\dots,9", r"1, 2, \ldots, 9"),
]
DIFFERENT = [
    ("1 2", "12"),
    ("AC", "CA"),
    ("m=4, n=5", "m=5, n=4"),
    (r"n \equiv 4 \pmod{9}", r"n \equiv 4 \pmod{7}"),
    ("9:30 am", "9:30 pm"),
    ("2:30", "2.5"),
    ("|x|", "x"),
    (r"\sqrt{x^2}", "x"),
    (r"\max(a,b)", "b"),
    (r"\max(a,b,c)", r"\max(b,c)"),
    (r"\min(a,b)", "a"),
    (r"\lceil n/3\rceil", "1"),
    (r"\lceil n/3\rceil", r"\lfloor n/3\rfloor+1"),  # but where 3 divides n
    ("|x-1000|", "1000-x"),
    (r"\frac{|x|}{x}", "1"),
    (r"\ln|x|", r"\ln x"),
    ("|x|<3", "x<3"),
    (r"|x|>1", r"(-\infty,-1]\cup[1,\infty)"),
    ("x<1, y>2", r"(-\infty,1)\cup(2,\infty)"),
    (r"(0,\infty)", r"\mathbb{R}"),
    ("y=2x", "x=2y"),
    ("f(x)=x+1", "g(x)=x+1"),
    ("x^2>4", "x>2"),
    (r"\pi(R^2-r^2)", "0"),
    (r"\frac{M}{m}", "1"),
    (r"\Delta x", r"\delta x"),
    ("2m", "2"),
    ("x=2m", "x=2"),
    ("n=3k", "3"),
    ("x=5", "y=5"),
    ("0.5", r"50\%"),  # else 50 and 0.5 would be the same
    (r"\frac13", "0.333"),
    ("0.0000672", "0.000067"),  # six decimal places are not enough
    ("1000000", "1000001"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    ("1,2,2", "1,2"),
    ("(100,200)", "100200"),
    (r"\sqrt{2}", "1.41421"),
    (r"\pm 2021", "2021"),
    ("05/01/2021", "5/2021"),
    ("12:00", "12"),
    ("4343_6", "4343"),
    ("A", "B"),
    ("x", "X"),
    ("5 x", "5"),
    ("5 million", "5"),
    (r"\text{even}", r"\text{odd}"),
    ("3x-y+13=0", "3x+4y+14=0"),
    ("0=1", "0=2"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    (r"1,2,\ldots,n", r"1,3,\ldots,2n-1"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\frac{", r"\frac{1}"),
    ("", ")"),
    ("7" * 5000, "x" * 5000),
    ("5 square miles of fertile land", "5"),  # five words are prose
    ("0.333333", "0.3333333"),  # two decimals are exact
    (r"\frac13", "0.33333"),  # relative error 1e-5
    ("2 1/2", "-2 1/2"),
    (r"\{1,2\}", "(1,2)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("3:2", "2:3"),
    ("5 thousand", "5"),
]
HUGE = "2003^(2002^2001)"


@pytest.fixture(scope="module")
def checker():
    with EquivalenceChecker() as checker:
        yield checker


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same(checker, a, b):
    assert checker.same_many([(a, b), (b, a), (a, a)]) == [True, True, True]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(checker, a, b):
    assert checker.same_many([(a, b), (b, a), (b, b)]) == [False, False, True]


def test_nothing_timed_out_or_crashed_above(checker):
    assert (checker.timeouts, checker.crashes) == (0, 0)


def test_plain_answers_need_no_worker():
    with EquivalenceChecker() as checker:
        pairs = [("0.5", r"\frac12"), ("A", "B"), ("10", "12"), ("(1,2)", r"(1, \frac42)")]
        assert checker.same_many(pairs) == [True, False, False, True]
        assert checker._worker is None


def test_a_timeout_counts_as_different_spares_the_batch_and_leaves_no_process():
    with EquivalenceChecker(timeout_s=2) as checker:
        assert checker.same("2x", "x2")
        first = checker._worker.process
        verdicts = checker.same_many([("3x", "x3"), (HUGE, "x"), ("4x", "x4"), ("4x", "x")])
        assert verdicts == [True, False, True, False]
        assert checker.timeouts == 1
        assert first.returncode is not None  # killed and reaped
        second = checker._worker.process
        assert second.pid != first.pid
        assert not checker.same("x", HUGE)  # known by now, in either order
        assert checker.timeouts == 1
    assert second.returncode is not None


def test_a_slow_answer_costs_two_waits_however_many_answers_there_are(monkeypatch):
    workers = []

    class Counted(equivalence._Worker):
        def __init__(self):
            super().__init__()
            workers.append(self)

    monkeypatch.setattr(equivalence, "_Worker", Counted)
    with EquivalenceChecker(timeout_s=2) as checker:
        others = [f"{k}x" for k in range(8)]
        pairs = [(HUGE, other) for other in others] + [(f"(1, {HUGE})", "(1, x)"), ("3x", "x3")]
        assert checker.same_many(pairs) == [False] * 9 + [True]
        # The first pair, HUGE alone, the pair in brackets and its first alone end one each.
        assert (checker.timeouts, len(workers)) == (9, 5)
        assert not checker.same(HUGE, "y")
        assert (checker.timeouts, len(workers)) == (10, 5)


def test_only_the_pair_is_remembered_if_neither_fails_alone(monkeypatch):
    """Two quick answers, of which the worker never decides one pair."""
    ask = equivalence._Worker.ask

    def faulty(self, pairs, limit_s):
        n = next((i for i, pair in enumerate(pairs) if set(pair) == {"2x", "3x"}), None)
        verdicts, timed_out = ask(self, pairs[:n], limit_s)
        return verdicts, timed_out or n is not None

    monkeypatch.setattr(equivalence._Worker, "ask", faulty)
    with EquivalenceChecker() as checker:
        pairs = [("3x", "2x"), ("2x", "x2"), ("3x", "x3")]
        assert checker.same_many(pairs) == checker.same_many(pairs) == [False, True, True]
        assert (checker.timeouts, checker.crashes) == (1, 0)


def test_works_off_the_main_thread_and_from_many_threads(checker):
    pairs = [(f"{k}x", f"x*{k}") for k in range(2, 8)]
    results = []

    def compare():
        results.append(checker.same_many([*pairs, ("x", "2x")]))

    threads = [threading.Thread(target=compare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True] * 6 + [False]] * 4


def test_a_script_without_main_guard_leaves_no_worker_behind():
    """Killed, it cannot clean up: the worker ends with its input."""
    script = """if True:
        import time
        from deepprune.answers import EquivalenceChecker
        checker = EquivalenceChecker()
        checker.same("2x", "x2")
        print(checker._worker.process.pid, flush=True)
        time.sleep(60)
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 120
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(pid)


def _is_alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_rejects_a_time_limit_that_is_none():
    with pytest.raises(ValueError, match="got 0"):
        EquivalenceChecker(timeout_s=0)

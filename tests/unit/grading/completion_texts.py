"""Generated completions for the grading tests and the fuzz: plausible, malformed and hostile ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_NUMBERS = ["0", "1", "2", "3", "7", "10", "12", "0.5", ".5", "5.", "1e3", "1E-2", "1_000", "007", "00", "0x1F", "0b11"]
_NUMBERS += ["1e400", "3j", "1__0", "1_", "0o17", "123456789012345678901234567890", "2.50", "١", "1e5000"]
_OPERATORS = ["+", "-", "*", "/", "//", "%", " + ", " - ", " * ", " / ", "*", "+", "-", "/", "&", "|", "^", "<"]
_NOISE = "0123456789.+-/%()=<># |&^~_eExjJ,\n\t\r\f\\\x00\u0663\u00d7\u2212\ud800$!"
_FILLERS = [
    "So",
    "Tom has",
    "apples",
    "in total.",
    "Then",
    "each day",
    "\n",
    ", ",
    "costs $",
    "x",
    "≈",
    "%",
    " of ",
    "####",
]
_ANSWERS = [
    "18",
    "-3",
    "1,800",
    "18.",
    "18.0",
    "0.5",
    ".5",
    "1.2.3",
    ",",
    "-",
    "",
    " 18",
    "$18",
    "18\x00",
    "1e3",
    "٣",
    "9" * 400,
]
UNSAFE = re.compile(r"\*\*.*\*\*|<<.*<<|\*\*[^=]*\d{6}", re.DOTALL)
"""Expressions that the transcription's `eval` might not finish."""


def expression(rng: random.Random, depth: int = 2) -> str:
    """A random Python arithmetic expression, sometimes malformed, small enough for `eval`."""
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(_NUMBERS) if rng.random() < 0.4 else str(rng.randint(0, 99))
    if kind < 0.4:
        return f"({expression(rng, depth - 1)})"
    if kind < 0.47:
        return rng.choice("-+~") + expression(rng, depth - 1)
    if kind < 0.52:
        return f"({rng.randint(-9, 99)}{rng.choice(['**', ' ** ', '<<'])}{rng.choice(['-2', '0', '2', '3', '.5'])})"
    return expression(rng, depth - 1) + rng.choice(_OPERATORS) + expression(rng, depth - 1)


def equation(rng: random.Random) -> str:
    """What may stand inside `<<...>>`: mostly true, otherwise slightly or largely wrong, or malformed."""
    left = expression(rng)
    try:
        value = eval(left, {"__builtins__": {}})
        right = str(value + rng.choice([0, 0, 0, 0, 0, 0.0009, 0.0011, -0.001, 1]))
    except Exception:
        right = rng.choice(["5", "nan", "inf", "1e999"])
    whole = (
        left + rng.choice(["=", "=", "=", " = ", "==", ""]) + right + rng.choice(["", "", "", "", "=7", "=x|4=4", " "])
    )
    if rng.random() < 0.15:
        at = rng.randrange(len(whole) + 1)
        whole = whole[:at] + rng.choice(_NOISE) + whole[at + rng.randint(0, 1) :]
    return "3+2=5" if UNSAFE.search(whole) else whole


def completion(rng: random.Random, equations: list[str] | None = None) -> str:
    """A completion with annotations and mostly a final answer of 18 or -3."""
    pieces = [rng.choice(_FILLERS)]
    for text in equations if equations is not None else [equation(rng) for _ in range(rng.randint(0, 3))]:
        opening = rng.choice(["<<"] * 12 + ["<<<", "< <", "<<<<"])
        pieces += [
            rng.choice(_FILLERS),
            f"{opening}{text}{rng.choice(['>>'] * 12 + ['>', '>>>', ''])}",
            rng.choice(_FILLERS),
        ]
    answer = "18" if rng.random() < 0.6 else rng.choice(_ANSWERS)
    pieces.append(rng.choice(["\n#### "] * 8 + ["####", "\n###  ", "\x00#### ", ""]) + answer)
    return " ".join(pieces)


def samples_of_one_problem(rng: random.Random, count: int) -> list[str]:
    """Texts that share few equation lists: repeated, reworded, some with a wrong equation."""
    lists = [[f"{rng.randint(1, 3)}+{rng.randint(1, 3)}={rng.randint(2, 6)}" for _ in range(rng.randint(0, 2))]]
    lists += [["1+1=2"], ["1+1=2", "2+2=4"], ["1 + 1=2", "2+2=4"], ["3=3=x|4=4"], ["3=3=x", "4=4"], [], ["2+2=5"]]
    words = ["a", "bb", "so", "Tom", "Tom has it", "in all\n", "", "each"]
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.3:
            texts.append(rng.choice(texts))
        else:
            marks = "".join(f" {rng.choice(words)} <<{equation}>>" for equation in rng.choice(lists))
            texts.append(" ".join(rng.choices(words, k=rng.randint(0, 5))) + marks + " " + rng.choice(words))
    return texts


def hostile_texts(size: int = 100_000) -> Iterator[tuple[str, str]]:
    """(name, text) of inputs that break naive graders by time, memory, recursion or execution."""
    n = size
    pieces = {
        "power tower": "<<9**9**9=1>>\n#### 18",
        "power of a power": "<<(9**999)**999=1>>\n#### 18",
        "negative power tower": "<<9**-9**9=1>>\n#### 18",
        "huge shift": "<<1<<99999999999=1>>\n#### 18",
        "huge product": f"<<{'*'.join(['9' * 90] * 11)}=1>>\n#### 18",
        "huge number": f"<<{'9' * n}=1>>\n#### 18",
        "huge right side": f"<<1={'9' * n}>>\n#### 18",
        "huge answer": f"#### {'9' * n}",
        "huge decimal answer": f"#### 0.{'9' * n}",
        "huge prose number": f"1 + {'9' * n} = 3\n#### 18",
        "exponent literal": "<<1e999999999=1>> 1e999999999 + 1 = 2\n#### 1e999999999",
        "nested parentheses": f"<<{'(' * n}1{')' * n}=1>>\n#### 18",
        "nested in bound": f"<<{'(' * 400}1{')' * 400}=1>>\n#### 18",
        "unclosed parentheses": f"<<{'(' * 900}=1>>\n#### 18",
        "prose parentheses": f"{'(' * n}1{')' * n} = 1\n#### 18",
        "prose parentheses open": f"{'(1+' * (n // 3)} = 1\n#### 18",
        "unary signs": f"<<{'-' * 900}1=1>>\n#### 18",
        "long sum": f"<<{'1+' * n}1=1>>\n#### 18",
        "long prose sum": f"{'1+' * (n // 2)}1 = 1\n#### 18",
        "long prose sum of halves": f"{'1/2+' * (n // 4)}1 = 1\n#### 18",
        "many equals": "=" * n + "\n#### 18",
        "equals inside": f"<<1{'=' * n}1>>\n#### 18",
        "prose chain": "1 = " * (n // 4) + "1\n#### 18",
        "prose equations": "1 + 1 = 2. " * (n // 11) + "\n#### 18",
        "different equations": "".join(f"<<{i}+1={i + 1}>>" for i in range(n // 14)) + "\n#### 18",
        "different prose equations": "".join(f"{i} + 1 = {i + 1}. " for i in range(n // 16)) + "\n#### 18",
        "open angles": "<" * n + "\n#### 18",
        "open angles and one": "<" * n + ">\n#### 18",
        "closing angles": "<<" + ">" * n,
        "hashes": "#" * n,
        "hash answers": "#### 1\n" * (n // 7),
        "hash words": "#### 1 a\n#### 2 b\n" * (n // 18),
        "commas": "#### " + "1," * (n // 2),
        "dots": "#### " + "1." * (n // 2),
        "spaces after answer": "the answer" + " " * n + "is 18",
        "answers": "answer is " * (n // 10),
        "answer to": "answer to " * (n // 10),
        "answer colons": "A: 1 " * (n // 5),
        "stars": "*" * n + " A: 18",
        "bold": "**1" * (n // 3),
        "boxes": "\\boxed{" * (n // 7),
        "boxes closed": "\\boxed{1}" * (n // 9),
        "nested boxes": "\\boxed{" * (n // 8) + "}" * (n // 8),
        "fractions": "\\frac{" * (n // 6) + "1=1",
        "fractions open": "\\frac{1}" * (n // 8) + "=1",
        "text commands": "\\text{" * (n // 6) + "= 1 \\boxed{18}",
        "backslashes": "\\" * n + "= 1\n#### 18",
        "mixed numbers": "1 1/2 " * (n // 6) + "= 1\n#### 18",
        "times": "1:" * (n // 2) + "1 = 1\n#### 18",
        "words": "a" * n + " = 1\n#### 18",
        "hyphened words": "a-" * (n // 2) + " = 1\n#### 18",
        "units": "1 a b c + " * (n // 10) + "1 = 1\n#### 18",
        "of": "1% of " * (n // 6) + "1 = 1\n#### 18",
        "signs": "1 " + "-" * n + "1 = 1\n#### 18",
        "currency": "$" * n + "1 + 1 = 2\n#### 18",
        "percent signs": "1" + "%" * n + " = 1\n#### 18",
        "Unicode digits": "<<١+١=٢>> ١ + ١ = ٢\n#### ١٨",
        "full-width": "<<１+１=２>>\n#### １８",
        "lone surrogates": "\ud800<<1+1=2>>\udfff\n#### 18\ud800",
        "surrogate comment": "<<1+1 #\ud800=2>>\n#### 18",
        "NULs": "\x00" * n + "<<1+1=2>>\n#### 18",
        "NUL inside": "<<1+\x001=2>>\n#### 18",
        "import": "<<__import__('os').system('exit 1')=0>>\n#### 18",
        "subclasses": "<<().__class__.__bases__[0].__subclasses__()=0>>\n#### 18",
        "exit": "<<exit()=0>><<quit()=0>>\n#### 18",
        "format string": "<<'%0999999999d'%1=1>>\n#### 18",
        "list product": "<<[0]*9999999999=1>>\n#### 18",
        "comprehension": "<<sum(i for i in range(10**9))=1>>\n#### 18",
        "lambda": "<<(lambda f:f(f))(lambda f:f(f))=1>>\n#### 18",
        "walrus": "<<(a:=9**9)**a=1>>\n#### 18",
        "encoding comment": "<<1+1 # coding: utf-7=2>>\n#### 18",
        "line continuation": "<<1+\\\n1=2>>\n#### 18",
        "carriage returns": "\r" * n + "1 + 1 = 2\r#### 18",
        "combining marks": "1" + "\u0301" * n + " = 1\n#### 18",
        "right to left": "\u202e<<1+1=2>>\n#### 18",
        "remainders": "7/2 = 3 x remaining " + "7/2 = 3 1 x x remaining * 1 " * (n // 28) + "\n#### 18",
        "taken back": "3 + 4 = 8 that which it should x " * (n // 33) + "\n#### 18",
        "empty": "",
        "blank": " " * n,
        "new lines": "\n" * n + "#### 18",
    }
    yield from pieces.items()


def random_hostile(rng: random.Random) -> str:
    """One random short text: snippets of the hostile ones and of completions, joined and mutated."""
    snippets = [
        "<<",
        ">>",
        "=",
        "####",
        "#### ",
        "18",
        "\\boxed{",
        "}",
        "{",
        "\\frac{1}{2}",
        "**",
        "*",
        "/",
        "(",
        ")",
        "$",
        "%",
    ]
    snippets += [
        "answer is",
        "A:",
        " of ",
        " x ",
        "1,000",
        ".5",
        "-",
        "+",
        "^",
        "9**9",
        "9" * 50,
        "1e9",
        "\n",
        " ",
        "≈",
        "½",
        "²",
    ]
    snippets += [
        "\x00",
        "\ud800",
        "٣",
        "apples",
        "1 1/2",
        "10:30",
        "//",
        "~",
        "<",
        ">",
        "|",
        "_",
        "\\text{a}",
        "lambda:",
        "[",
        "'",
    ]
    text = "".join(rng.choice(snippets) * rng.choice([1, 1, 1, 1, 2, 5]) for _ in range(rng.randint(0, 40)))
    if rng.random() < 0.3:
        text += completion(rng)
    if rng.random() < 0.05:
        text *= rng.randint(2, 50)
    if rng.random() < 0.3 and text:
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + chr(rng.choice([rng.randrange(0x20, 0x7F), rng.randrange(0x3000), rng.randrange(0x11000)]))
            + text[at:]
        )
    return text

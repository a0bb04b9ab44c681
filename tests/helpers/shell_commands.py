"""The commands in the pages and scripts that users copy from."""

import re
import shlex

KEYWORDS = ("if", "then", "else", "while", "do", "!")
ENDS = ("fi", "done", "do", "then", "else", "[", "exit")
PROGRAMS = ("python", ".venv/bin/python", "/opt/mtan_jax/.venv/bin/python")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def indented_blocks(text: str) -> list[str]:
    """The indented blocks of a page, without their indentation."""
    found = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def commands(script: str) -> list[list[str]]:
    """Every command of a script as its words, those that it passes to another shell included.

    Keywords, assignments before a command, and redirections are left out.
    """
    lines = [line for line in script.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    lexer = shlex.shlex("\n".join(lines), posix=True, punctuation_chars=";|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";|&\n"):
            found.append([])
        else:
            found[-1].append(word)
    return [command for words in found for command in _unwrapped(words)]


def _unwrapped(words: list[str]) -> list[list[str]]:
    """The command, and those that it passes to a shell elsewhere, without what precedes its name."""
    if "#" in words:
        words = words[: words.index("#")]
    if words[:1] == ["export"]:
        words = words[1:]
    while words and (words[0] in KEYWORDS or (ASSIGNMENT.match(words[0]) and "$(" not in words[0])):
        words = words[1:]
    if words and ASSIGNMENT.match(words[0]):  # NAME=$(command ...)
        words = [words[0].partition("$(")[2], *words[1:]]
        words[-1] = words[-1].removesuffix(")")
    words = [word for word in words if not word.startswith((">", "2>", "<"))]
    if not words or words[0] in ENDS:
        return []
    inner = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    if "bash" in words and "-c" in words:
        inner.append(words[words.index("-c") + 1])
    return [words, *(command for script in inner for command in commands(script))]


def program_arguments(words: list[str]) -> list[str] | None:
    """The arguments of the program if a command starts it, perhaps after `srun` or `mpirun` and their options."""
    for i, word in enumerate(words):
        if word == "mtan-jax":
            return words[i + 1 :]
        if word in PROGRAMS and words[i + 1 : i + 3] == ["-m", "mtan_jax.main"]:
            return words[i + 3 :]
    return None

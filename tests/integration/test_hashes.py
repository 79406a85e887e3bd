"""The lines of docs/scaling.md that find a target's partition, each run by its language."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.tools import ROOT, tool
from trio_sse.delivery.partitions import Layout, parse_place
from trio_sse.delivery.targets import Target, topic

pytestmark = pytest.mark.integration

DOCS = ROOT / "docs" / "scaling.md"
NAMES = ("user:42", "user:1", "topic:orders/17", "topic:Füße/消息", "user:😀", "user:a b'")

GO = 'package main\nimport ("fmt"; "hash/crc32")\nfunc main() {\n'
JAVA = "import java.nio.charset.StandardCharsets;\nimport java.util.zip.CRC32;\nclass Hash {\n"


def blocks(language: str) -> list[str]:
    """Those of the part about partitions."""
    text = DOCS.read_text().partition("## The log in partitions")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def partition(name: str, count: int) -> int:
    kind, _, rest = name.partition(":")
    target: Target = rest if kind == "user" else topic(rest)
    return Layout("notes", count).of(target)


LANGUAGES: dict[str, tuple[str, Callable[[list[str]], str], list[str]]] = {
    "python": (
        "hash.py",
        lambda lines: "import zlib\n" + "".join(f"{line}print(number)\n" for line in lines),
        [sys.executable],
    ),
    "php": (
        "hash.php",
        lambda lines: "<?php\n" + "".join(f'{line}echo $number, "\\n";\n' for line in lines),
        ["php"],
    ),
    "go": (
        "hash.go",
        lambda lines: GO + "".join(f"{{\n{line}fmt.Println(number)\n}}\n" for line in lines) + "}\n",
        ["go", "run"],
    ),
    "js": (
        "hash.mjs",
        lambda lines: (
            'import zlib from "node:zlib";\n'
            + "".join(f"{{\n{line}console.log(number);\n}}\n" for line in lines)
        ),
        ["node"],
    ),
    "java": (
        "Hash.java",
        lambda lines: (
            JAVA
            + "public static void main(String[] args) {\n"
            + "".join(f"{{\n{line}System.out.println(number);\n}}\n" for line in lines)
            + "}\n}\n"
        ),
        ["java", "-Dfile.encoding=UTF-8"],
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_line_of_each_language_is_right(tmp_path: Path, language: str) -> None:
    name, program, command = LANGUAGES[language]
    command = [tool(command[0]), *command[1:]]
    line = blocks(language)[0]
    assert '"user:42"' in line
    assert "% 8" in line
    lines, expected = [], []
    for count in (8, 1000):
        for one in NAMES:
            quoted = json.dumps(one, ensure_ascii=False)
            lines.append(line.replace('"user:42"', quoted).replace("% 8", f"% {count}"))
            expected.append(partition(one, count))
    script = tmp_path / name
    script.write_text(program(lines))
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False, timeout=80)
    assert done.returncode == 0, done.stderr
    assert [int(number) for number in done.stdout.split()] == expected


def test_the_program_adds_to_each_partition_once_and_answers_a_place(valkey: int, tmp_path: Path) -> None:
    _, program = blocks("python")
    script = tmp_path / "publish.py"
    script.write_text(program.replace("6379", str(valkey)).replace("notes:", "recipe:"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    place = parse_place(done.stdout.strip())
    assert place is not None
    assert place.published
    numbers = {Layout("", 8).of(target) for target in ("1", "2", topic("orders/17"))}
    assert {one.number for one in place.parts} == numbers
    with redis.Redis(port=valkey, db=1) as client:
        assert {key.decode() for key in client.keys("recipe:*")} == {f"recipe:{{{n}}}" for n in numbers}
        assert all(client.xlen(f"recipe:{{{number}}}") == 1 for number in numbers)


def test_the_command_of_the_docs_names_the_partition_of_its_user() -> None:
    number = partition("user:42", 8)
    assert f"XADD 'notes:{{{number}}}'" in DOCS.read_text()

"""Runs SQL in an embedded ClickHouse, in a process of its own, which its engine needs.

stdin: JSON {folder, scripts: [[statement, …], …]}. stdout: JSON, for each script the rows of its
statements as lists of text; a script that fails gives {"error": text} in place of the rest.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from chdb.session import Session


def main() -> None:
    asked = json.load(sys.stdin)
    session = Session(asked["folder"])
    answers = []
    for script in asked["scripts"]:
        answer: list[Any] = []
        for statement in script:
            try:
                text = session.query(statement, "TSV").bytes().decode("utf-8", "replace")
            except RuntimeError as error:
                answer.append({"error": f"{statement}: {error}"})
                break
            answer.append([line.split("\t") for line in text.splitlines()])
        answers.append(answer)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

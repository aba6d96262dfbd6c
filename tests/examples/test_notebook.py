"""The notebook as it lies in the repository: run from top to bottom, without errors, with what it is to show.

That it runs is seen by `.ci/run`, which executes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOTEBOOK = json.loads((Path(__file__).parents[2] / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS: list[dict[str, Any]] = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_was_run_once_from_top_to_bottom() -> None:
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    kinds = {output["output_type"] for cell in CELLS for output in cell["outputs"]}
    assert kinds == {"stream", "execute_result"}  # no error
    streams = {output.get("name") for cell in CELLS for output in cell["outputs"]} - {None}
    assert streams == {"stdout"}  # no warning


def test_it_shows_progress_in_lines_and_a_release_with_picture_verdict_and_bill() -> None:
    said = "".join("".join(output.get("text", ())) for cell in CELLS for output in cell["outputs"])
    assert said.count("pip install ipywidgets") == 1
    assert "step 500/500, " in said
    (release,) = [cell for cell in CELLS if "".join(cell["source"]) == "release"]
    (output,) = release["outputs"]
    page = "".join(output["data"]["text/html"])
    assert "LIMITED PRIVACY" in page
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 1
    assert "<th scope=col>claim</th>" in page
    assert len("".join(output["data"]["text/plain"])) < 250


def test_it_tells_nothing_of_whose_machine_it_was() -> None:
    text = json.dumps(NOTEBOOK)
    assert "/root/" not in text
    assert "/home/" not in text
    assert "ipykernel_" not in text  # a path of a traceback or a warning
    assert len(text) < 200_000

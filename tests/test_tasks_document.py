"""docs/tasks.md matches the code, and its examples are the results of the code."""

import re
from pathlib import Path

import pytest

from florence.records import FINE_TUNED, TASKS
from florence.tasks import task
from florence.tasks.__main__ import SIDE, make_markdown

PATH = Path(__file__).parents[1] / "docs/tasks.md"


def test_the_document_is_what_the_tasks_say():
    assert PATH.read_text(encoding="utf-8") == make_markdown()


@pytest.mark.parametrize("name", [*TASKS, *FINE_TUNED])
def test_every_task_has_an_example_that_holds(name):
    (part,) = re.findall(rf"^### {name.strip('<>')}\n(.*?)(?=^##|\Z)", PATH.read_text(encoding="utf-8"), re.M | re.S)
    assert f"| prompt | `{task(name).template}` |" in part
    prompt, target = (re.findall(rf"^{word} +(.*)$", part, re.M)[0] for word in ("prompt", "target"))
    before, _, after = task(name).template.partition("{input}")
    assert prompt.startswith(before) and prompt.endswith(after)
    given = prompt[len(before) : len(prompt) - len(after)] if task(name).takes_input else ""
    assert task(name).prompt(given) == prompt
    answer = task(name).decode(target, (SIDE, SIDE), given)
    assert answer.error is None
    for region in answer.regions:
        assert f"{(region.box or region.quad or region.polygons[0])[0]:.2f}, " in part and region.label in part

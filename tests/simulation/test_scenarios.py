# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden scenarios: what is done to a cluster, and the story it tells of it.

`python -m ctdbpy.sim --scenario FILE --update` writes the story anew: read what has changed, then keep it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.sim import scenarios

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_tells_its_story(file: Path) -> None:
    text = file.read_text()
    played = scenarios.play(text)
    assert played.complaints == ()
    assert played.story == scenarios.story_of(text), "python -m ctdbpy.sim --scenario FILE --update"


def test_there_are_scenarios_of_every_kind() -> None:
    assert len(FILES) >= 12


def test_a_word_that_nobody_understands_is_refused() -> None:
    with pytest.raises(ValueError, match="deed_explode"):
        scenarios.play("at 0 explode all\nend 1\n")
    with pytest.raises(ValueError, match="line 2"):
        scenarios.play("nodes 3\nboot all\nend 1\n")

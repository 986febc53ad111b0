"""Each sentence of the protocol that binds is shown by a dialogue or a vector."""

import json
import re
from pathlib import Path

from spec.conformance.play import Dialogue

SPEC = Path(__file__).parent.parent.parent / "spec"
CONFORMANCE = SPEC / "conformance"
RULE = re.compile(r"- \*\*\[([A-Z]+-[0-9]+)\]\*\* (.*?)(?=\n- |\n#|\n\n[^ ]|\Z)", re.DOTALL)


def sentences() -> dict[str, str]:
    """The text of each id of the protocol."""
    found = RULE.findall((SPEC / "PROTOCOL.md").read_text(encoding="utf-8"))
    assert len({name for name, _ in found}) == len(found), "an id stands twice"
    return dict(found)


def shown() -> set[str]:
    """The ids that dialogues and vectors name."""
    rules: set[str] = set()
    for path in (CONFORMANCE / "dialogues").glob("*.ndjson"):
        rules.update(Dialogue(str(path)).rules)
    for path in (CONFORMANCE / "vectors").glob("*/*.json"):
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]:
            rules.update(vector["rules"])
    return rules


def test_every_sentence_that_says_must_is_shown() -> None:
    binding = {name for name, text in sentences().items() if "MUST" in text}
    assert len(binding) > 30
    assert sorted(binding - shown()) == []


def test_every_id_that_a_dialogue_or_vector_names_is_in_the_protocol() -> None:
    assert sorted(shown() - set(sentences())) == []


def test_every_id_in_the_protocol_is_found_by_these_tests() -> None:
    text = (SPEC / "PROTOCOL.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\[([A-Z]+-[0-9]+)\]", text))
    assert named == set(sentences())

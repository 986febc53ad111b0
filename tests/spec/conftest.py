from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

from car_rpc.spec import documents


@pytest.fixture(scope="session")
def spec() -> dict[str, Any]:
    return documents()


@pytest.fixture(scope="session")
def definitions(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["schema"]["$defs"]


@pytest.fixture(scope="session")
def validators(definitions: dict[str, Any]) -> dict[str, Validator]:
    """A validator for every definition: jsonschema's, which knows nothing of msgspec."""
    return {
        name: Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})
        for name in definitions
    }

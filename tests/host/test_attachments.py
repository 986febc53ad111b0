import base64
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.host import attachments
from car_rpc.wire.inference import GenerateRequest

IMAGE = b"\x89PNG"


def image(path: Path | str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "path", "path": str(path)}}


async def inlined(root: Path, **fields: Any) -> dict[str, Any]:
    raw = msgspec.json.encode(fields)
    request = msgspec.json.decode(raw, type=GenerateRequest)
    typed, patched = await attachments.inline(request, raw, [root])
    assert msgspec.json.decode(patched, type=GenerateRequest) == typed
    return msgspec.json.decode(patched)


async def refusal(root: Path, path: Path | str) -> CarError:
    with pytest.raises(CarError) as caught:
        await inlined(root, images=[image(path)])
    return caught.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "allowed"
    root.mkdir()
    (root / "a.png").write_bytes(IMAGE)
    (tmp_path / "secret.png").write_bytes(b"secret")
    return root


CARRIED = {
    "type": "base64",
    "media_type": "image/png",
    "data": base64.b64encode(IMAGE).decode(),
}


async def test_files_are_carried_inline_and_all_else_stays(root: Path) -> None:
    text = {"type": "text", "text": "x"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image(root / "a.png"), text]}
    fields = {
        "messages": [
            {"role": "user", "content": [text, image(root / "a.png")], "unknown": 1},
            {"role": "user", "content": "plain"},
            {"role": "tool", "content": [result]},
        ],
        "images": [image(root / "a.png")],
        "new": {"kept": True},
    }
    patched = await inlined(root, **fields)
    assert patched["images"][0]["source"] == CARRIED
    assert patched["messages"][0]["content"] == [text, {"type": "image", "source": CARRIED}]
    assert patched["messages"][0]["unknown"] == 1
    assert patched["messages"][2]["content"][0]["content"][0]["source"] == CARRIED
    assert patched["new"] == {"kept": True}


async def test_a_request_without_files_is_passed_on_byte_for_byte(root: Path) -> None:
    raw = b'{ "prompt":"x", "x":1.50 }'
    request = msgspec.json.decode(raw, type=GenerateRequest)
    assert await attachments.inline(request, raw, [root]) == (request, raw)


@pytest.mark.parametrize("name", ["../secret.png", "link.png", "/etc/passwd", "", "a\0.png"])
async def test_what_lies_outside_the_allowed_roots_is_refused(root: Path, name: str) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    path = name if name.startswith("/") or not name else f"{root}/{name}"
    failure = await refusal(root, path)
    assert (failure.kind, failure.data["path"]) == ("policy_denied", path)


async def test_a_file_behind_a_tool_result_is_no_way_around_the_rule(root: Path) -> None:
    block = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [image(root.parent / "secret.png")],
    }
    with pytest.raises(CarError) as caught:
        await inlined(root, messages=[{"role": "tool", "content": [block]}])
    assert caught.value.kind == "policy_denied"


async def test_links_within_the_roots_are_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root / "a.png")
    patched = await inlined(root, images=[image(root / "link.png")])
    assert patched["images"][0]["source"] == CARRIED


async def test_links_in_a_circle_are_refused(root: Path) -> None:
    (root / "one").symlink_to(root / "two")
    (root / "two").symlink_to(root / "one")
    assert (await refusal(root, root / "one")).kind in {"policy_denied", "io_error"}


async def test_what_is_no_readable_file_is_an_io_error_and_never_blocks(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    for name in ("missing.png", "pipe", "folder"):
        failure = await refusal(root, root / name)
        assert (failure.kind, failure.data["path"]) == ("io_error", str(root / name))


async def test_a_file_that_fails_is_named_with_its_block(root: Path) -> None:
    text = {"type": "text", "text": "x"}
    for name, says in (
        (root / "none.png", "it is not there"),
        (root, "it is no file"),
        (root.parent / "secret.png", "start with --allow-path"),
    ):
        nested = {"type": "tool_result", "tool_use_id": "t", "content": [image(name)]}
        for block, place in (
            (image(name), "$.messages[0].content[1]"),
            (nested, "$.messages[0].content[1].content[0]"),
        ):
            with pytest.raises(CarError, match=says) as caught:
                await inlined(root, messages=[{"role": "user", "content": [text, block]}])
            assert caught.value.detail.endswith(f" - at `{place}`")


async def test_files_that_are_too_large_together_are_refused(root: Path) -> None:
    for name in ("b", "c"):
        with (root / name).open("wb") as file:
            file.truncate(attachments.MAX_ATTACHED_BYTES - 100)
    with pytest.raises(CarError) as caught:
        await inlined(root, images=[image(root / "b"), image(root / "c")])
    assert caught.value.kind == "invalid_params"


async def test_a_refused_file_is_told_and_logged_as_policy(app: Any, tmp_path: Path) -> None:
    error = await app.failure(
        1, "generate", model="echo", prompt="x", images=[image(tmp_path / "elsewhere.png")]
    )
    assert error["data"]["kind"] == "policy_denied"
    assert app.sink.types == ["request", "completion"]


async def test_an_explanation_takes_files_as_the_request_itself_would(
    app: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "allowed"
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("hello")
    (folder / "scan.bin").write_bytes(b"x")

    def asked(path: Path) -> dict[str, Any]:
        block = {"type": "document", "source": {"type": "path", "path": str(path)}}
        content = [{"type": "text", "text": "Sum it up."}, block]
        return {"messages": [{"role": "user", "content": content}]}

    # A text is no matter of seeing, and only its file says that it is one.
    decision = await app.call(1, "models.route", **asked(folder / "notes.txt"))
    assert decision["result"]["model_id"] == "test/echo:a"
    refused = await app.failure(2, "models.route", **asked(folder / "scan.bin"))
    assert refused["data"]["kind"] == "invalid_request"
    denied = await app.failure(3, "models.route", **asked(tmp_path / "elsewhere.txt"))
    assert denied["data"]["kind"] == "policy_denied"
    assert app.sink.types == [], "nothing ran"

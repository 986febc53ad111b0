"""Images and sound for llama.cpp models, beside mtmd's own way to read them."""

import base64
import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from car_rpc.errors import CarError
from car_rpc.wire.content import (
    AudioBlock,
    Base64Source,
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
)
from car_rpc.wire.media import media_of
from car_rpc.wire.worker import AnswerPrefix, Events, Failed, Generate, Load, Reply, SamplingParams
from tests.workers.test_engines import Asked, chat, finish, run

pytest.importorskip("llama_cpp")

from car_rpc.workers import image
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from car_rpc.workers.llama_cpp.native import lib, load_mtmd
from car_rpc.workers.llama_cpp.projector import WHOLE_IMAGE, Medium
from tests.workers.memories import WRITERS
from tests.workers.projectors import (
    SOUND_TOKENS,
    TOKENS,
    picture,
    tone,
    write_projector,
    write_rows_and_columns,
    write_whole_image_projector,
)

pytestmark = pytest.mark.llama

CONTEXT = 1024
RED, BLUE, WIDE = picture(), picture((30, 30, 200)), picture((10, 200, 10), (160, 40))
LOW, HIGH = tone(220.0), tone(880.0)

#: A prefix hit changes the sizes in which a prompt is read, and with them the last digits.
MAX_LOGPROB_CHANGE = 0.05

Said = str | bytes


@pytest.fixture(scope="module")
def model(model_file: Callable[..., Path]) -> Path:
    return model_file(context=2048)


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_projector(tmp_path_factory.mktemp("projector") / "both.gguf", hears=True)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_rows_and_columns(tmp_path_factory.mktemp("grid"))


def load(model: Path, projector: Path | str = "", **options: Any) -> LlamaEngine:
    engine = LlamaEngine()
    options = {"context_length": CONTEXT, **options}
    engine.load(Load(path=str(model), projector=str(projector), **options), lambda _: None)
    return engine


@pytest.fixture(scope="module")
def loaded(model: Path, projector: Path) -> LlamaEngine:
    return load(model, projector)


@pytest.fixture(scope="module")
def loaded_grid(grid: tuple[Path, Path]) -> LlamaEngine:
    return load(*grid)


@pytest.fixture
def engine(loaded: LlamaEngine) -> LlamaEngine:
    """An engine that sees and hears, and knows no prompt yet."""
    loaded.reset()
    return loaded


def block(said: Said) -> TextBlock | ImageBlock | AudioBlock:
    if isinstance(said, str):
        return TextBlock(text=said)
    data = base64.b64encode(said).decode()
    if said.startswith(b"RIFF"):
        return AudioBlock(source=Base64Source(media_type="audio/wav", data=data))
    return ImageBlock(source=Base64Source(media_type="image/png", data=data))


def look(*said: Said, cache: bool = False, **params: Any) -> Generate:
    """A request with texts, images and sound in a row."""
    turn = Message(role="user", content=[block(each) for each in said])
    return conversation(turn, cache=cache, **params)


def conversation(*turns: Message, cache: bool = False, **params: Any) -> Generate:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, **params}
    return Generate(
        id=1,
        messages=list(turns),
        places=[f"$.messages[{n}]" for n in range(len(media_of(turns)))],
        params=SamplingParams(**options),
        prefix_cache=cache,
    )


class Bare:
    """A model with its projector, read with `mtmd_helper_eval_chunks` and a greedy loop."""

    def __init__(self, model: Path, projector: Path, batch: int = PREFILL_CHUNK) -> None:
        self.mtmd: Any = load_mtmd()
        self.model = lib.llama_model_load_from_file(
            str(model).encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 2048, batch, batch
        self.batch = batch
        params.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, params)
        self.projector = self.mtmd.mtmd_init_from_file(
            str(projector).encode(), self.model, self.mtmd.mtmd_context_params_default()
        )
        self.vocab = lib.llama_model_get_vocab(self.model)

    def generate(self, prompt: str, files: Sequence[bytes], count: int) -> tuple[list[int], int]:
        """The likeliest tokens after a prompt with a marker for each file, and its size."""
        mtmd = self.mtmd
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        bitmaps = [
            mtmd.mtmd_helper_bitmap_init_from_buf(
                self.projector, (ctypes.c_uint8 * len(file))(*file), len(file), False
            )
            for file in files
        ]
        data = prompt.encode()
        text = mtmd.mtmd_input_text(text=data, text_len=len(data), parse_special=True)
        chunks = mtmd.mtmd_input_chunks_init()
        array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
        code = mtmd.mtmd_tokenize(self.projector, chunks, ctypes.byref(text), array, len(bitmaps))
        assert code == 0
        end = lib.llama_pos(0)
        code = mtmd.mtmd_helper_eval_chunks(
            self.projector, self.context, chunks, 0, 0, self.batch, True, ctypes.byref(end)
        )
        assert code == 0
        answer: list[int] = []
        while True:
            row = lib.llama_get_logits_ith(self.context, -1)
            logits = np.ctypeslib.as_array(row, shape=(lib.llama_vocab_n_tokens(self.vocab),))
            answer.append(int(logits.argmax()))
            if len(answer) == count:
                return answer, mtmd.mtmd_helper_get_n_tokens(chunks)
            batch = lib.llama_batch_init(1, 0, 1)
            batch.n_tokens, batch.token[0], batch.pos[0] = 1, answer[-1], end.value
            batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
            assert lib.llama_decode(self.context, batch) == 0
            end.value += 1


@pytest.fixture(scope="module")
def bare(model: Path, projector: Path) -> Bare:
    return Bare(model, projector)


@pytest.fixture(scope="module")
def bare_grid(grid: tuple[Path, Path]) -> Bare:
    return Bare(*grid)


def rendered(bare: Bare, *turns: tuple[str, Sequence[Said]]) -> tuple[str, list[bytes]]:
    """The prompt of turns as the template writes it, with mtmd's own marker for each file."""
    marker = bare.mtmd.mtmd_default_marker().decode()
    prompt = ""
    for role, said in turns:
        text = "".join(each if isinstance(each, str) else marker for each in said)
        prompt += f"<|im_start|>{role}\n{text}<|im_end|>\n"
    files = [each for _, said in turns for each in said if isinstance(each, bytes)]
    return f"{prompt}<|im_start|>assistant\n", files


def sampled(asked: Asked) -> list[bytes]:
    """The tokens of an answer, as they are spelled."""
    told = [each for frame in asked.frames if isinstance(frame, Events) for each in frame.logprobs]
    return [bytes(each.bytes or []) for each in told]


def spelled(engine: LlamaEngine, tokens: Sequence[int]) -> list[bytes]:
    """The same of tokens; nothing is told of those that would end an answer."""
    vocab = engine._vocab
    return [vocab.spelling(token) for token in tokens if not vocab.ends(token)]


def logprobs(asked: Asked) -> list[float]:
    return [
        each.logprob
        for frame in asked.frames
        if isinstance(frame, Events)
        for each in frame.logprobs
    ]


def read(asked: Asked) -> int:
    """Tokens of the prompt, as the result tells them."""
    tokens = asked.usage.prompt_tokens
    assert isinstance(tokens, int)
    return tokens


def cached(asked: Asked) -> int:
    return asked.usage.cache_read_tokens or 0


# ------------------------------------------------------------------------------------- reading

ROWS: list[tuple[Said, ...]] = [
    ("hello ", RED, " what is it?"),
    (RED,),
    (RED, BLUE, "compare"),
    ("a" * 300, WIDE, "b" * 300, RED, "c"),
    ("one", BLUE, "two", BLUE, "three"),
    ("listen ", LOW, " now"),
    (HIGH, "and ", RED, " and ", LOW),
]


@pytest.mark.parametrize("said", ROWS, ids=range(len(ROWS)))
def test_a_model_says_token_for_token_what_it_says_to_mtmds_own_reader(
    engine: LlamaEngine, bare: Bare, said: tuple[Said, ...]
) -> None:
    prompt, files = rendered(bare, ("user", said))
    expected, size = bare.generate(prompt, files, 12)
    (asked,) = run(engine, look(*said, logprobs=1))
    assert asked.answer == Reply(id=1)
    assert sampled(asked) == spelled(engine, expected)
    assert read(asked) == size


@pytest.mark.parametrize("said", ROWS[:5], ids=range(5))
def test_so_does_one_that_counts_rows_and_columns(
    loaded_grid: LlamaEngine, bare_grid: Bare, said: tuple[Said, ...]
) -> None:
    loaded_grid.reset()
    prompt, files = rendered(bare_grid, ("user", said))
    expected, size = bare_grid.generate(prompt, files, 12)
    (asked,) = run(loaded_grid, look(*said, logprobs=1))
    assert sampled(asked) == spelled(loaded_grid, expected)
    assert read(asked) == size


@pytest.mark.parametrize("kind", ["attention", *WRITERS])
@pytest.mark.parametrize("whole", [False, True])
def test_so_does_one_of_each_kind_of_memory(
    kind: str, whole: bool, model: Path, projector: Path, tmp_path: Path
) -> None:
    path = model if kind == "attention" else WRITERS[kind](tmp_path / "model.gguf")
    if whole:
        projector = write_whole_image_projector(tmp_path / "whole.gguf")
    engine = load(path, projector, context_length=2048)
    bare = Bare(path, projector, WHOLE_IMAGE if whole else PREFILL_CHUNK)
    begun, said, more = ["see " * 30, RED, "and", BLUE], ["so"], [WIDE, "then?"]
    turns: Any = [("user", begun), ("assistant", said), ("user", more)]
    expected, size = bare.generate(*rendered(bare, *turns), 12)
    told = [Message(role=role, content=[block(each) for each in said]) for role, said in turns]
    (fresh,) = run(engine, conversation(*told, logprobs=1))
    assert sampled(fresh) == spelled(engine, expected)
    assert read(fresh) == size
    (first,) = run(engine, conversation(told[0], cache=True))
    (second,) = run(engine, conversation(*told, cache=True, logprobs=1))
    assert cached(second) > read(first) // 2
    assert np.abs(np.subtract(logprobs(second), logprobs(fresh))).max() < MAX_LOGPROB_CHANGE


def test_images_may_stand_in_any_turn(engine: LlamaEngine, bare: Bare) -> None:
    turns: Any = (
        ("system", ["s ", BLUE]),
        ("user", [RED, "x"]),
        ("assistant", ["y"]),
        ("user", ["z"]),
    )
    said = [Message(role=role, content=[block(each) for each in said]) for role, said in turns]
    (asked,) = run(engine, conversation(*said, logprobs=1))
    expected, _ = bare.generate(*rendered(bare, *turns), 12)
    assert sampled(asked) == spelled(engine, expected)


def test_images_may_stand_in_the_result_of_a_tool(engine: LlamaEngine, bare: Bare) -> None:
    result = ToolResultBlock(tool_use_id="t", content=[block("seen: "), block(RED)])  # type: ignore[list-item]
    (asked,) = run(engine, conversation(Message(role="tool", content=[result]), logprobs=1))
    expected, _ = bare.generate(*rendered(bare, ("tool", ["seen: ", RED])), 12)
    assert sampled(asked) == spelled(engine, expected)


def test_other_images_and_sounds_give_other_answers(engine: LlamaEngine) -> None:
    answers = [
        logprobs(run(engine, look("x", each, "y", logprobs=1))[0])
        for each in (RED, BLUE, LOW, HIGH, RED)
    ]
    assert answers[0] == answers[4]
    assert len({answer[0] for answer in answers}) == 4


def test_what_looks_like_a_marker_is_text(engine: LlamaEngine) -> None:
    marker = load_mtmd().mtmd_default_marker().decode()
    (asked,) = run(engine, look(marker, RED, f"<|im_end|>{marker}"))
    assert asked.answer == Reply(id=1)
    plain = len(engine._vocab.tokenize(marker, special=False))
    assert read(asked) > 2 * plain + TOKENS


def test_an_answer_goes_on_behind_an_image(engine: LlamaEngine) -> None:
    request = look("x", RED, "y", max_tokens=12)
    (whole,) = run(engine, request)
    prefix = AnswerPrefix(text=whole.text)
    (more,) = run(engine, msgspec.structs.replace(request, prefix=prefix))
    assert more.answer == Reply(id=1)
    assert read(more) == read(whole)


def test_answers_are_the_same_in_company(engine: LlamaEngine) -> None:
    requests = [
        look("x", RED, "y"),
        chat("short"),
        look("x", BLUE, "a" * 300),
        chat("b" * 400),
        look(LOW, "z"),
    ]
    alone = [run(engine, request)[0].events for request in requests]
    assert [asked.events for asked in run(engine, *requests)] == alone


def test_a_short_request_waits_for_one_image_at_most(engine: LlamaEngine) -> None:
    engine.step()
    long = Asked(engine, look(*[RED, BLUE] * 4, "x"))
    long.woken.wait()
    engine.step()
    short = Asked(engine, chat("hi", max_tokens=1))
    steps = 0
    while short.answer is None:
        engine.step()
        steps += 1
    assert long.answer is None
    assert steps <= 2
    finish(engine, long)
    assert long.answer == Reply(id=1)


def test_images_of_many_tokens_in_few_places_do_not_pass_for_short(
    loaded_grid: LlamaEngine,
) -> None:
    engine = loaded_grid
    engine.reset()
    large = picture(size=(280, 280))  # a hundred tokens in ten places
    long = Asked(engine, look(large, large, large, "x"))
    long.woken.wait()
    engine.step()
    short = Asked(engine, chat("b" * 100, max_tokens=1))
    engine.step()
    assert short.answer == Reply(id=1)
    assert long.answer is None
    finish(engine, long)
    assert long.answer == Reply(id=1)


# -------------------------------------------------------------------------------------- the cache


def test_the_same_image_is_read_once(engine: LlamaEngine) -> None:
    first, second = (run(engine, look("x", RED, "y" * 20, cache=True))[0] for _ in range(2))
    assert cached(first) == 0
    assert cached(second) == read(second) - 1
    assert second.text == first.text


def test_another_image_is_never_taken_for_it(engine: LlamaEngine) -> None:
    for first, other in ((RED, BLUE), (RED, LOW), (LOW, HIGH)):
        engine.reset()
        (seen,) = run(engine, look("x", first, "y", cache=True))
        (unseen,) = run(engine, look("x", other, "y", cache=True, logprobs=1))
        before = read(seen) - read(unseen)
        assert 0 < cached(unseen) < 20 + abs(before)
        engine.reset()
        (fresh,) = run(engine, look("x", other, "y", logprobs=1))
        assert np.abs(np.subtract(logprobs(unseen), logprobs(fresh))).max() < MAX_LOGPROB_CHANGE


@pytest.mark.parametrize("which", ["loaded", "loaded_grid"])
def test_a_conversation_goes_on_behind_its_images(
    which: str, request: pytest.FixtureRequest
) -> None:
    engine: LlamaEngine = request.getfixturevalue(which)
    engine.reset()
    begun = Message(role="user", content=[block(each) for each in ("x", WIDE, "y", BLUE, "z")])
    said = Message(role="assistant", content="w" * 10)
    more = Message(role="user", content=[block("and "), block(RED), block("?")])
    (first,) = run(engine, conversation(begun, cache=True))
    (second,) = run(engine, conversation(begun, said, more, cache=True, logprobs=1))
    assert cached(second) >= read(first) - 2
    engine.reset()
    (fresh,) = run(engine, conversation(begun, said, more, logprobs=1))
    assert read(fresh) == read(second)
    assert np.abs(np.subtract(logprobs(second), logprobs(fresh))).max() < MAX_LOGPROB_CHANGE


def test_what_was_read_of_images_moves_to_a_larger_context(loaded_grid: LlamaEngine) -> None:
    engine = loaded_grid
    engine.reset()
    requests = [look(f"{n}", RED, "y" * n, cache=True, logprobs=1) for n in range(1, 9)]
    alone = [run(engine, request)[0] for request in requests]
    again = run(engine, *requests)
    for before, after in zip(alone, again, strict=True):
        assert cached(after) > 0
        change = np.abs(np.subtract(logprobs(before), logprobs(after))).max()
        assert change < MAX_LOGPROB_CHANGE


def test_without_the_cache_nothing_is_taken_or_left(engine: LlamaEngine) -> None:
    run(engine, look("x", RED, "y", cache=True))
    (asked,) = run(engine, look("x", RED, "y"))
    assert cached(asked) == 0
    engine.reset()
    run(engine, look("x", RED, "y"))
    (asked,) = run(engine, look("x", RED, "y", cache=True))
    assert cached(asked) == 0


# -------------------------------------------------------------------------------------- counting


def test_images_and_sound_count(engine: LlamaEngine) -> None:
    (plain,) = run(engine, look("x", "y"))
    (seen,) = run(engine, look("x", RED, BLUE, "y"))
    (heard,) = run(engine, look("x", LOW, "y"))
    assert read(seen) == read(plain) + 2 * TOKENS
    assert read(heard) == read(plain) + SOUND_TOKENS
    assert [each.prompt_tokens for each in (plain, seen)] == [read(each) for each in (plain, seen)]


@pytest.mark.parametrize("which", ["model", "grid"])
def test_too_many_of_them_are_too_long_a_prompt(
    which: str, model: Path, projector: Path, grid: tuple[Path, Path]
) -> None:
    engine = load(*((model, projector) if which == "model" else grid), context_length=128)
    (asked,) = run(engine, look(*[WIDE, BLUE] * 16, "x"))
    assert isinstance(asked.answer, Failed)
    assert asked.answer.kind == "context_overflow"
    assert asked.answer.data["prompt_tokens"] > 128
    (fine,) = run(engine, look(RED, "x"))
    room = 128 - read(fine)
    (cut,) = run(engine, look(RED, "x", max_tokens=1000))
    assert cut.usage.completion_tokens == room


# ------------------------------------------------------------------------------------- refusing


def failure(asked: Asked) -> Failed:
    assert isinstance(asked.answer, Failed), asked.answer
    return asked.answer


def test_a_model_without_a_projector_says_so(model: Path) -> None:
    failed = failure(run(load(model), look("x", RED))[0])
    assert failed.kind == "unsupported_mode"
    assert "without a projector" in failed.detail
    assert failed.data["path"] == "$.messages[0]"


@pytest.mark.parametrize(("said", "does"), [(RED, "see"), (LOW, "hear")])
def test_what_a_projector_does_not_read_is_named(
    model: Path, tmp_path: Path, said: bytes, does: str
) -> None:
    sees = said is not RED
    path = write_projector(tmp_path / "half.gguf", sees=sees, hears=not sees)
    failed = failure(run(load(model, path), look("x", said))[0])
    assert failed.kind == "unsupported_mode"
    assert f"this model does not {does}: its projector half.gguf does not" in failed.detail


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"not an image", "its bytes are not of a kind that is read; send a whole PNG"),
        (RED[:60], "its PNG is cut off or damaged"),
        (b"RIFF....WAVEfmt ", "the audio cannot be used"),
        (LOW[:2000], "it is cut off"),
    ],
)
def test_bytes_that_are_no_image_or_sound_are_refused_by_their_place(
    engine: LlamaEngine, content: bytes, problem: str
) -> None:
    failed = failure(run(engine, look("x", RED, content, "y"))[0])
    assert failed.kind == "invalid_request"
    assert problem in failed.detail
    assert failed.data == {"path": "$.messages[1]"}
    assert run(engine, look("x", RED))[0].answer == Reply(id=1)


def test_what_is_no_base64_is_refused(engine: LlamaEngine) -> None:
    source = Base64Source(media_type="image/png", data="AAA*")
    request = conversation(Message(role="user", content=[ImageBlock(source=source)]))
    failed = failure(run(engine, request)[0])
    assert (failed.kind, failed.data) == ("invalid_request", {"path": "$.messages[0]"})


def test_all_together_have_so_many_pixels_and_each_so_many_seconds(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from car_rpc.workers.llama_cpp import media

    monkeypatch.setattr(media, "MAX_PIXELS_TOGETHER", 2 * 40 * 30)
    assert run(engine, look(RED, BLUE, "x"))[0].answer == Reply(id=1)
    failed = failure(run(engine, look(RED, BLUE, RED, "x"))[0])
    assert (failed.kind, failed.data) == ("invalid_request", {"path": "$.messages[2]"})
    monkeypatch.setattr(media, "MAX_SOUND_S", 1)
    assert run(engine, look(tone(seconds=1.0), "x"))[0].answer == Reply(id=1)
    failed = failure(run(engine, look("x", RED, tone(seconds=1.2)))[0])
    assert (failed.kind, failed.data) == ("invalid_request", {"path": "$.messages[1]"})


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3000), (3000, 1)])
def test_images_may_have_any_form(
    engine: LlamaEngine, loaded_grid: LlamaEngine, size: tuple[int, int]
) -> None:
    for each in (engine, loaded_grid):
        (asked,) = run(each, look("x", picture(size=size)))
        assert asked.answer == Reply(id=1)


@pytest.mark.parametrize("samples", [1, 2, 200, 401])
def test_sounds_may_be_short(engine: LlamaEngine, samples: int) -> None:
    (asked,) = run(engine, look("x", tone(seconds=samples / 16_000)))
    assert asked.answer == Reply(id=1)


def test_a_template_that_drops_an_image_is_no_way_to_show_it(
    model_file: Callable[..., Path], projector: Path
) -> None:
    last = "{{ messages[-1].content }}{% if add_generation_prompt %}>{% endif %}"
    engine = load(model_file(last), projector)
    turns = [Message(role="user", content=[block(RED)]), Message(role="user", content="x")]
    failed = failure(run(engine, conversation(*turns))[0])
    assert failed.kind == "invalid_request"
    assert "has no place for this" in failed.detail
    engine = load(model_file("{{ messages[-1].content }}"), projector)
    failed = failure(run(engine, look("x", RED))[0])
    assert "puts an image at the end" in failed.detail
    assert failed.data == {"path": "$.messages[0]"}


def test_what_a_projector_cannot_read_is_named_by_its_place(
    loaded_grid: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the form, and llama.cpp makes no image longer than 65,536 pixels."""
    monkeypatch.setattr(image, "MAX_SIDE", 400_000)
    long = picture(size=(400_000, 1))
    failed = failure(run(loaded_grid, look("x", RED, "y", long, BLUE))[0])
    assert failed.kind == "invalid_request"
    assert "cannot read it" in failed.detail
    assert "out of range" in failed.detail
    assert failed.data == {"path": "$.messages[1]"}
    assert run(loaded_grid, look("x", RED))[0].answer == Reply(id=1)


def test_an_image_that_must_be_read_at_once_is_named_where_it_is_too_large(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(model, write_whole_image_projector(tmp_path / "whole.gguf"))
    assert engine._media is not None
    monkeypatch.setattr(engine._media._projector, "batch_tokens", 1)
    failed = failure(run(engine, look("x", RED, BLUE))[0])
    assert failed.kind == "invalid_request"
    assert "1 at most; send a smaller one - at `$.messages[0]`" in failed.detail
    assert failed.data == {"path": "$.messages[0]"}


def test_a_projector_that_does_not_fit_is_no_crash(
    model: Path, projector: Path, tmp_path: Path
) -> None:
    wide = write_projector(tmp_path / "wide.gguf", width=128)
    (tmp_path / "text.gguf").write_text("not a model")
    for path, kind, why in (
        (wide, "model_load_failed", "mismatch between text model (n_embd = 64)"),
        (model, "model_load_failed", "does not fit the model, or is none"),
        (tmp_path / "text.gguf", "model_load_failed", "does not fit the model, or is none"),
        (tmp_path / "none.gguf", "io_error", "No such file"),
    ):
        with pytest.raises(CarError) as caught:
            load(model, path)
        assert caught.value.kind == kind
        assert why in caught.value.detail
        assert caught.value.extra["path"] == str(path)


# ------------------------------------------------------------------------------------ cancelling


def test_who_cancels_before_an_image_is_read_frees_the_slot(engine: LlamaEngine) -> None:
    asked = Asked(engine, look(*[RED, BLUE] * 8, "x"))
    asked.job.cancel()
    while engine.step():
        pass
    assert failure(asked).kind == "cancelled"
    assert run(engine, look("x", RED))[0].answer == Reply(id=1)


def test_cancelling_ends_an_image_in_the_middle(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = run(engine, look("x", RED, "y", cache=True))
    engine.reset()
    read = Medium.read

    def cancelled(self: Medium, *args: Any) -> None:
        asked.job.cancel()
        read(self, *args)

    monkeypatch.setattr(Medium, "read", cancelled)
    asked = Asked(engine, look("x", RED, "y", cache=True))
    finish(engine, asked)
    while engine.step():
        pass
    assert engine._generators is not None
    assert not engine._generators.long._active
    assert failure(asked).kind == "cancelled"
    monkeypatch.undo()
    (again,) = run(engine, look("x", RED, "y", cache=True))
    assert 0 < cached(again) < TOKENS
    assert again.text == expected.text

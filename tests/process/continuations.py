"""What continuations of an answer come to, whatever engine gives it."""

from tests.process.conftest import Core


def check_continuations(core: Core, model: str, count: int) -> None:
    """Each adds as many tokens as an answer may have, and all are counted once."""
    (token,) = core.call("tokenize", {"model": model, "text": "a"})["tokens"]
    params = {"max_tokens": 20, "ignore_eos": True, "temperature": 0, "thinking": "off"}
    asked = {"model": model, "prompt": "Hello!", "max_tokens_continuations": count}
    only_one = {**params, "logit_bias": {str(token): 1000}}
    for each in (params, only_one):
        result = core.call("generate", {**asked, "params": each})
        assert (result["stop_reason"], result["recoveries"]) == ("max_tokens", count)
        assert result["usage"]["completion_tokens"] == 20 * (count + 1)
    assert result["text"] == "a" * 20 * (count + 1)  # as many as were counted

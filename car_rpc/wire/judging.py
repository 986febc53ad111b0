"""What a model is told when it is to say yes or no to a document.

The words are the ones that Qwen3-Reranker was trained on (its model card), which the executor
contract fixes as well.
"""

from __future__ import annotations

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".'
)

#: What stands before and behind the question, where no chat template is to be applied to it.
HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def question(query: str, document: str, instruction: str) -> str:
    """What the user asks."""
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"

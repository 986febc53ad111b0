"""The ACP Python SDK: an agent with two extension methods and a prompt that streams."""

import asyncio
from typing import Any

import acp
from acp import schema


class Agent(acp.Agent):
    """Answers ``_ping`` and ``_echo``; a prompt says how many updates it wants."""

    def on_connect(self, conn: Any) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> Any:
        return schema.InitializeResponse(protocol_version=protocol_version)

    async def new_session(self, cwd: str, **_: Any) -> Any:
        return schema.NewSessionResponse(session_id="s1")

    async def prompt(self, prompt: Any, session_id: str, **_: Any) -> Any:
        count, _, text = prompt[0].text.partition(" ")
        for _ in range(int(count)):
            await self.client.session_update(session_id, acp.update_agent_message_text(text))
        return schema.PromptResponse(stop_reason="end_turn")

    async def ext_method(self, method: str, params: Any) -> Any:
        return params


asyncio.run(acp.run_agent(Agent()))

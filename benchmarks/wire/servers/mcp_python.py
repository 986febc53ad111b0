"""The MCP Python SDK with two tools, in its own idiom."""

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("benchmark", log_level="ERROR")


@server.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
async def stream(count: int, text: str, ctx: Context) -> str:
    """Report progress as many times as was asked for."""
    for seq in range(count):
        await ctx.report_progress(seq, message=text)
    return "done"


server.run("stdio")

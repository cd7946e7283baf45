"""`baichuan chat`: talk to a model in the terminal."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Annotated, Any, NamedTuple

import typer

from cli.conversation import Conversation
from cli.errors import CommandError
from cli.options import KeyOption, UrlOption, connect
from cli.output import print_message

HELP_TEXT = """\
/clear          forget the conversation
/system TEXT    set the system prompt and forget the conversation; without TEXT, remove the prompt
/exit           leave the chat, like Ctrl-D
\"\"\"             begin or end a multi-line message
Ctrl-C          stop the answer"""
MESSAGE_FENCE = '"""'


def chat(  # noqa: PLR0913, PLR0917 - one parameter per option
    model: Annotated[str, typer.Argument(help="Id of a model.")],
    adapter: Annotated[str | None, typer.Option(help="Id of a LoRA adapter to apply to the model.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sampling temperature; 0 is greedy. Default: the model's own.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length of an answer in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    wait: Annotated[int, typer.Option(min=0, max=600, help="Seconds to wait for the model to be loaded.")] = 300,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Chat with a model. Type /help to list the chat commands. If stdin is a pipe, each line is a message."""
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    request: dict[str, Any] = {"model": model} | {name: value for name, value in given.items() if value is not None}
    request["baichuan"] = {"wait_seconds": wait} | ({"adapter": adapter} if adapter else {})
    with connect(url, key) as client:
        conversation = Conversation(client, request, system=system, wait_seconds=wait)
        if sys.stdin.isatty():
            _converse(conversation, model)
        else:
            for message in _read_messages():
                if not _run_command(conversation, message):
                    _print_answer(conversation, message.text)


def _converse(conversation: Conversation, model: str) -> None:
    """Read messages from a terminal and answer them until the user ends the conversation; errors do not end it."""
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - importing it gives `input` a history; some systems lack it
    print_message(f"{model} · /help lists the commands, Ctrl-D ends the chat")
    messages = _read_messages()
    while True:
        try:
            message = next(messages, None)
        except KeyboardInterrupt:
            print_message("\n(Ctrl-D ends the chat)")
            messages = _read_messages()
            continue
        if message is None:
            return
        try:
            if not _run_command(conversation, message):
                _print_answer(conversation, message.text)
        except KeyboardInterrupt:
            print_message("\n(stopped)")
        except CommandError as error:
            print_message(f"error: {error}")


class _Message(NamedTuple):
    """The text that the user has entered, and whether it is a block, which is never a command."""

    text: str
    is_block: bool = False


def _read_messages() -> Iterator[_Message]:
    """Yield messages, each a line or a block between \"\"\" lines, until the input ends or the user enters `/exit`."""
    block: list[str] | None = None
    while True:
        try:
            line = input(("> " if block is None else ". ") if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip() == MESSAGE_FENCE:
            if block is None:
                block = []
                continue
            text, block = "\n".join(block), None
            if text.strip():
                yield _Message(text, is_block=True)
            continue
        if block is not None:
            block.append(line)
            continue
        if line.strip() == "/exit":
            return
        if line.strip():
            yield _Message(line)


def _run_command(conversation: Conversation, message: _Message) -> bool:
    """Run the chat command that the message contains, if any; return whether there was one."""
    if message.is_block:
        return False
    command, _, rest = message.text.strip().partition(" ")
    match command:
        case "/clear":
            conversation.clear()
        case "/system":
            conversation.clear()
            conversation.system = rest.strip() or None
        case "/help":
            print_message(HELP_TEXT)
        case _ if command.startswith("/"):
            print_message(
                f"{command} is not a command; /help lists all commands; "
                f"put a message that starts with / between {MESSAGE_FENCE} lines"
            )
        case _:
            return False
    return True


def _print_answer(conversation: Conversation, message: str) -> None:
    try:
        with closing(conversation.stream_answer(message)) as pieces:  # leaving the block early aborts the answer
            for piece in pieces:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
    finally:
        typer.echo()
